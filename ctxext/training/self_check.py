"""Before the first step: is the rope still the method's, and the fast loss the plain one?"""

from typing import Any

import torch

from ctxext.checkpoints.check import compare_rotary, rotary_module
from ctxext.checkpoints.detect import Position
from ctxext.errors import CtxextError
from ctxext.training.context_parallel import context_inputs, whole_rows
from ctxext.training.lora import LossModel
from ctxext.training.loss import shifted_labels
from ctxext.training.mesh import Mesh

_SLICE = 256  # tokens of the first row on which both losses are computed
_LOSS_TOLERANCE = 1e-3


def check_rope(model: Any, position: Position) -> None:
    """`inv_freq` is float32 and the config's, whatever has wrapped or cast the model since.

    Raises:
        CtxextError: it is not. Training would teach positions that no reader will use.
    """
    rope = position.rope
    if rope is None or rope.inv_freq is None or rope.attention_factor is None:
        return
    if rope.block.rope_type == "dynamic":  # changes with the length at hand, by its nature
        return
    compare_rotary(rotary_module(model), rope.inv_freq, rope.attention_factor, where="the model")


@torch.no_grad()
def check_loss(model: LossModel, ids: torch.Tensor, mesh: Mesh | None = None) -> float:
    """Compare our loss with transformers' own on the start of one row.

    Where ranks share a row, ours is computed as it will be trained, transformers' on every rank.

    Args:
        model: as trained.
        ids: (batch, length) token ids.
        mesh: None = this process alone.

    Returns:
        The relative difference.

    Raises:
        CtxextError: it is larger than 1e-3.
    """
    part = ids[:1, :_SLICE]
    training = model.training
    model.eval()
    if mesh is None or mesh.context_group is None:
        ours = float(model(part)) / (part.shape[1] - 1)
        plain = float(model.model(input_ids=part, labels=part, use_cache=False).loss)
    else:
        ours, plain = _shared_losses(model, part, mesh)
    model.train(training)
    difference = abs(ours - plain) / max(abs(plain), 1e-12)
    if not difference <= _LOSS_TOLERANCE:
        raise CtxextError(
            f"the self-check failed: loss {ours:.6f}, and transformers' own is {plain:.6f}",
            "this is a bug of ctxext with this model; please report it",
        )
    return difference


def _shared_losses(model: LossModel, ids: torch.Tensor, mesh: Mesh) -> tuple[float, float]:
    """Mean loss as the ranks of a row compute it together, and as each computes it alone."""
    unit = 2 * mesh.context_ranks
    ids = ids[:, : max(ids.shape[1] // unit, 1) * unit].cpu()
    device = next(model.parameters()).device
    inputs = context_inputs(ids, shifted_labels(ids), None, mesh, device)
    # Every group of ranks reads the same row here.
    together = float(mesh.sum(model(**inputs))) / mesh.data_ranks / (ids.shape[1] - 1)
    ids = ids.to(device)
    with whole_rows(model.model.get_base_model()):
        alone = float(model.model(input_ids=ids, labels=ids, use_cache=False).loss)
    return together, alone
