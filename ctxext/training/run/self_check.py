"""Check before the first step that the rope is the method's and the fast loss the plain one."""

from functools import partial
from typing import Any

import torch

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.live.check import check_live_rope
from ctxext.checkpoints.live.tiling import smaller_tiles
from ctxext.errors import BadInput, CtxextError
from ctxext.training.model.batch import Batch
from ctxext.training.model.lora import LossModel
from ctxext.training.model.loss import IGNORED
from ctxext.training.parallel.context import context_batch
from ctxext.training.parallel.mesh import Mesh
from ctxext.training.parallel.sharding import evaluated, inside

_SLICE = 256  # tokens of the first row on which both losses are computed
_TOLERANCE = 1e-3
_APART = 16  # tokens of each of the two documents that have to stay apart


def check_rope(model: Any, position: Position) -> None:
    """Check that `inv_freq` is float32 and the config's, whatever has wrapped or cast the model.

    Raises:
        CtxextError: it is not. Training would teach positions that no reader will use.
    """
    check_live_rope(model, position, where="the model")


def first_tokens(batch: Batch, mesh: Mesh) -> Batch:
    """Cut out a batch's first row: its first 256 tokens, or what ranks that share a row can cut.

    So few that transformers' dense masks and whole logits take less memory than a training step.
    """
    unit = 2 * mesh.context_ranks if mesh.context_group is not None else 1
    return batch.first(max(min(_SLICE, batch.input_ids.shape[1]) // unit, 1) * unit)


@torch.no_grad()
def plain_loss(model: LossModel, batch: Batch) -> float:
    """Compute the mean loss as transformers does by itself, nats per scored token.

    Args:
        model: before attention, memory switches or ranks that share a row change how it computes.
        batch: whole rows, also where ranks will share them; every rank computes the same.
    """
    training = model.training
    model.eval()
    loss = inside(model, partial(_transformers_loss, batch=batch))
    model.train(training)
    return loss


@torch.no_grad()
def check_loss(model: LossModel, batch: Batch, plain: float, mesh: Mesh | None = None) -> float:
    """Compare our loss with transformers' own, which was computed before anything was switched on.

    Tiles are cut smaller for it: a short row would fit into one, and a wrong seam go unseen.

    Args:
        model: as trained.
        batch: what `plain` was computed on.
        plain: its `plain_loss`.
        mesh: None = this process alone. Where ranks share a row, each computes its part here.

    Returns:
        The relative difference.

    Raises:
        CtxextError: it is larger than 1e-3.
    """
    scored = int((batch.labels != IGNORED).sum())
    if not scored:  # a row of documents of one token each
        return 0.0
    rows, sharers = batch, 1
    if mesh is not None and mesh.context_group is not None:
        rows = context_batch(batch.to(torch.device("cpu")), mesh).to(batch.input_ids.device)
        sharers = mesh.data_ranks  # every group of ranks reads the same row here
    training = model.training
    model.eval()
    with smaller_tiles(model, rows.input_ids.numel() * 3 // 8):
        total = evaluated(model, rows)
    model.train(training)
    if mesh is not None and mesh.context_group is not None:
        total = mesh.sum(total)
    ours = float(total) / sharers / scored
    difference = abs(ours - plain) / max(abs(plain), 1e-12)
    if not difference <= _TOLERANCE:
        raise CtxextError(
            f"the self-check failed: loss {ours:.6f}, and transformers' own is {plain:.6f}",
            "this is a bug of ctxext with this model; please report it",
        )
    return difference


@torch.no_grad()
def check_documents(model: LossModel, batch: Batch) -> None:
    """Check that a document reads nothing of the one before it in its row.

    Not every class attends through transformers' interface, and some find out from the ids' order
    alone where tokens sit: what was asked of them they pass over in silence.

    Args:
        model: as trained.
        batch: from whose first row two short documents are cut.

    Raises:
        BadInput: the documents are read as one text.
    """
    ids = batch.input_ids[:1, : 2 * _APART]
    half = ids.shape[1] // 2
    if not half:
        return
    # As different as two texts can be: what comes first must not matter.
    other = torch.cat([(ids[:, :half].flip(1) - 1).clamp(min=0), ids[:, half:]], dim=1)
    places = torch.arange(half, device=ids.device)
    positions = torch.cat([places, places[: ids.shape[1] - half]])[None]
    labels = ids.roll(-1, 1).index_fill(1, places, IGNORED)
    training = model.training
    model.eval()
    first, second = (
        float(evaluated(model, Batch(each, labels, positions))) for each in (ids, other)
    )
    model.train(training)
    # The same sums but for what is masked: in half precision kernels may still add in other order.
    exact = not torch.is_autocast_enabled(ids.device.type)
    if not abs(first - second) <= (1e-5 if exact else _TOLERANCE) * max(abs(first), 1e-12):
        raise BadInput(
            "data.documents: separate: the attention of this model reads across documents",
            "use data.documents: stream",
        )


def _transformers_loss(model: Any, batch: Batch) -> float:
    labels = batch.labels
    inputs = batch.decoder_inputs()
    return float(model(**inputs, labels=labels, shift_labels=labels, use_cache=False).loss)
