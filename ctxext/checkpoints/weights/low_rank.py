"""Compute what one stored tensor becomes under an adapter, bit for bit as peft merges it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LowRank:
    """One adapted matrix: keys of its tensors in the adapter's file, and the factor on B @ A.

    Attributes:
        a, b: keys of A (rank, in) and B (out, rank).
        scale: alpha / rank, or alpha / sqrt(rank) with rsLoRA.
        magnitude: key of DoRA's m (out,); None = no DoRA.
        transposed: the matrix is kept as (in, out): embeddings, and GPT-2's layers.
    """

    a: str
    b: str
    scale: float
    magnitude: str | None = None
    transposed: bool = False


@dataclass(frozen=True)
class BiasUpdate:
    """`lora_bias`: the key of a vector (out,) whose multiple is added to the base's bias."""

    key: str
    scale: float


def add_low_rank(
    weight: "torch.Tensor",
    a: "torch.Tensor",
    b: "torch.Tensor",
    scale: float,
    *,
    magnitude: "torch.Tensor | None" = None,
    transposed: bool = False,
) -> "torch.Tensor":
    """Compute W + (B @ A) * scale, with DoRA m * that / its norm, in float32; the caller rounds.

        W' = m[:, None] * (W + s B A) / ||W + s B A||    (norm of each output row; arXiv:2402.09353)

    Args:
        weight: (out, in), or (in, out) where `transposed`; any floating dtype.
        a, b: (rank, in) and (out, rank).
        magnitude: (out,); None = plain LoRA.
        transposed: the layer keeps its matrix as (in, out), as GPT-2's Conv1D does.

    Returns:
        The shape of `weight`, float32.
    """
    import torch

    merged = b.float() @ a.float()
    if transposed:
        merged = merged.T.contiguous()  # peft sums the norm below over this layout
    merged.mul_(scale).add_(weight)  # a narrower weight is widened as it is added
    if magnitude is not None:
        rows = merged.T if transposed else merged
        factor = (magnitude.float() / torch.linalg.norm(rows, dim=1)).view(-1, 1)
        merged.mul_(factor.T if transposed else factor)
    return merged
