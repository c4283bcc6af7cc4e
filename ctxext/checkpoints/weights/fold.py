"""Fold an attention factor into the queries: one tensor of each layer, rewritten in its dtype."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.rope_forms import form_of
from ctxext.checkpoints.weights.carry import WeightsMode, link_or_copy
from ctxext.checkpoints.weights.files import INDEX, Weights, read_tensor, read_weights
from ctxext.checkpoints.weights.numbers import FLOATS, as_bytes, as_tensor
from ctxext.checkpoints.weights.queries import QUERIES
from ctxext.checkpoints.weights.query_tensors import query_heads
from ctxext.checkpoints.weights.rounding import Rounding, RoundingMeter
from ctxext.checkpoints.weights.row_scales import RowScales
from ctxext.checkpoints.weights.safetensors_file import (
    printable,
    read_bytes,
    write_safetensors,
)
from ctxext.errors import BadInput, CtxextError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Fold:
    """Which rows of which tensors are multiplied.

    Attributes:
        scale: of the queries: the square of what is folded of an attention factor, which is on
            cos and sin of queries and keys; of all scores, that itself.
        one_plus: whether 1 is added to what is stored before it is used.
        rows: tensor -> for each of its rows, whether it is multiplied.
    """

    scale: float
    one_plus: bool
    rows: Mapping[str, list[bool]]

    def of_shard(self, weights: Weights, file: str) -> bool:
        """Tell whether a shard holds a tensor that is rewritten."""
        return any(name in self.rows for name in weights.shards[file].tensors)

    def new_bytes(self, weights: Weights) -> int:
        """Count the bytes of the shards that are written anew."""
        return sum(
            info.end - info.start
            for file, header in weights.shards.items()
            if self.of_shard(weights, file)
            for info in header.tensors.values()
        )


def plan_fold(weights: Weights, position: Position, rest: float) -> Fold:
    """Find the tensors into which a factor on cos and sin, `rest`, can be folded.

    Args:
        position: of the base.

    Raises:
        BadInput: the family's queries are not known, or its tensors are not those of the family.
    """
    model_type, rope = position.model_type, position.rope
    queries = QUERIES.get(model_type)
    if queries is None or rope is None:
        raise BadInput(
            f"--fold-attention-factor: where the queries of {model_type} get their scale is not "
            "known to ctxext, so no factor can be folded into them",
            f"families where it is: {', '.join(sorted(QUERIES))}",
        )
    heads = query_heads(
        weights, position, queries, _scaled_layers(position), head_dim=rope.head_dim,
        what="--fold-attention-factor",
    )  # fmt: skip
    rows = {
        name: queries.turning(of_rows, rope.head_dim, rope.spec.rotary_dim)
        for name, of_rows in heads.items()
    }
    return Fold(rest**2, queries.one_plus, rows)


def _scaled_layers(position: Position) -> set[int]:
    """List the layers that turn by the rope that was extended."""
    far_alone = form_of(position.model_type).layer_type is not None
    return {
        layer.index
        for layer in position.layers
        if layer.position_encoding not in (None, "none")
        and not (far_alone and layer.attention != "full")
    }


def write_folded(weights: Weights, folder: Path, fold: Fold, mode: WeightsMode) -> Rounding:
    """Write the shards that change, one tensor in memory at a time; link or copy the others.

    Returns:
        What storing the tensors in their dtype cost.

    Raises:
        CtxextError: a product that the dtype cannot hold.
    """
    meter = RoundingMeter()
    for file, header in weights.shards.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if fold.of_shard(weights, file):
            plan = {name: (info.dtype, info.shape) for name, info in header.tensors.items()}
            tensors = _tensors(weights, file, fold, meter)
            write_safetensors(folder / file, plan, tensors, header.metadata or {"format": "pt"})
        else:
            link_or_copy(weights.folder / file, folder / file, mode)
    if weights.index is not None:
        shutil.copyfile(weights.folder / INDEX, folder / INDEX)
    return meter.worst


def check_folded(weights: Weights, folder: Path, fold: Fold) -> None:
    """Read what was folded back, and compare each of its numbers with the product.

    Raises:
        CtxextError: they differ.
    """
    import torch

    written = read_weights(folder)
    for name, rows in fold.rows.items():
        info, other = weights.tensors[name][1], written.tensors[name][1]
        exact = _folded(as_tensor(read_tensor(weights, name), info), fold, rows)
        stored = as_tensor(read_tensor(written, name), other)
        if not torch.equal(stored, _stored(name, exact, info.dtype)):
            raise CtxextError(f"{printable(name)} does not read back as it was to be written")


def _tensors(
    weights: Weights, file: str, fold: Fold, meter: RoundingMeter
) -> Iterator[tuple[str, bytearray | memoryview]]:
    header = weights.shards[file]
    with (weights.folder / file).open("rb") as source:
        for name, info in header.tensors.items():
            raw = read_bytes(source, header, info)
            if name not in fold.rows:
                yield name, raw
                continue
            before = as_tensor(raw, info)
            exact = _folded(before, fold, fold.rows[name])
            stored = _stored(name, exact, info.dtype)
            meter.add(name, exact, stored, None)
            yield name, as_bytes(stored)


def _folded(before: "torch.Tensor", fold: Fold, rows: list[bool]) -> "torch.Tensor":
    """Multiply the rows in float32."""
    return RowScales([fold.scale if row else 1.0 for row in rows], fold.one_plus).of(before)


def _stored(name: str, exact: "torch.Tensor", dtype: str) -> "torch.Tensor":
    import torch

    word = FLOATS[dtype]
    stored = exact.to(getattr(torch, word)).contiguous()
    if not stored.isfinite().all():
        raise CtxextError(
            f"the attention factor in the weights: {printable(name)!r} times it holds NaN, "
            f"infinity or a number beyond {word}"
        )
    return stored
