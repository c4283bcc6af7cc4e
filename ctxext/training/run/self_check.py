"""Before the first step: is the rope still the method's, and the fast loss the plain one?"""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.live.check import check_live_rope
from ctxext.checkpoints.live.head import without_peft
from ctxext.errors import CtxextError
from ctxext.training.attention.documents import DOCUMENTS
from ctxext.training.attention.flex import FLEX
from ctxext.training.attention.windows import WINDOWS
from ctxext.training.model.batch import Batch
from ctxext.training.model.lora import LossModel
from ctxext.training.model.loss import IGNORED
from ctxext.training.parallel.context import context_batch, whole_rows
from ctxext.training.parallel.mesh import Mesh
from ctxext.training.parallel.sharding import inside

_SLICE = 256  # tokens of the first row on which both losses are computed
_LOSS_TOLERANCE = 1e-3
_OTHERS = (DOCUMENTS, WINDOWS, FLEX)  # attention that stands in for transformers' plain one


def check_rope(model: Any, position: Position) -> None:
    """`inv_freq` is float32 and the config's, whatever has wrapped or cast the model since.

    Raises:
        CtxextError: it is not. Training would teach positions that no reader will use.
    """
    check_live_rope(model, position, where="the model")


@torch.no_grad()
def check_loss(model: LossModel, batch: Batch, mesh: Mesh | None = None) -> float:
    """Compare our loss with transformers' own on the start of one row.

    Where documents are kept apart or windows slide, transformers' own is computed with its dense
    mask; where ranks share a row, ours is computed as it will be trained, transformers' on every
    rank.

    Args:
        model: as trained.
        batch: its first row is read.
        mesh: None = this process alone.

    Returns:
        The relative difference.

    Raises:
        CtxextError: it is larger than 1e-3.
    """
    shared = mesh is not None and mesh.context_group is not None
    unit = 2 * mesh.context_ranks if mesh is not None and shared else 1
    part = batch.first(max(min(_SLICE, batch.input_ids.shape[1]) // unit, 1) * unit)
    scored = int((part.labels != IGNORED).sum())
    if not scored:  # a row of documents of one token each
        return 0.0
    training = model.training
    model.eval()
    decoder = without_peft(model.model)
    if mesh is not None and shared:
        own = context_batch(part.to(torch.device("cpu")), mesh).to(part.input_ids.device)
        # Every group of ranks reads the same row here.
        ours = float(mesh.sum(model(own))) / mesh.data_ranks / scored
    else:
        ours = float(model(part)) / scored
    our_attention = shared or decoder.config._attn_implementation in _OTHERS
    with whole_rows(decoder) if our_attention else nullcontext():
        plain = inside(model, partial(_plain_loss, batch=part))
    model.train(training)
    difference = abs(ours - plain) / max(abs(plain), 1e-12)
    if not difference <= _LOSS_TOLERANCE:
        raise CtxextError(
            f"the self-check failed: loss {ours:.6f}, and transformers' own is {plain:.6f}",
            "this is a bug of ctxext with this model; please report it",
        )
    return difference


def _plain_loss(model: Any, batch: Batch) -> float:
    """Mean loss as transformers computes it by itself."""
    labels = batch.labels
    inputs = batch.decoder_inputs()
    return float(model(**inputs, labels=labels, shift_labels=labels, use_cache=False).loss)
