"""Before the first step: is the rope still the method's, and the fast loss the plain one?"""

from typing import Any

import torch

from ctxext.checkpoints.check import compare_rotary, rotary_module
from ctxext.checkpoints.detect import Position
from ctxext.errors import CtxextError
from ctxext.training.attention import DOCUMENTS
from ctxext.training.batch import Batch
from ctxext.training.lora import LossModel
from ctxext.training.loss import IGNORED

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
def check_loss(model: LossModel, batch: Batch) -> float:
    """Compare our loss with transformers' own on the start of one row.

    Where documents are kept apart, transformers' own is computed with its dense mask.

    Args:
        model: as trained.
        batch: its first row is read.

    Returns:
        The relative difference.

    Raises:
        CtxextError: it is larger than 1e-3.
    """
    part = batch.first(_SLICE)
    scored = int((part.labels != IGNORED).sum())
    if not scored:  # a row of documents of one token each
        return 0.0
    training = model.training
    model.eval()
    ours = float(model(part)) / scored
    decoder = model.model.get_base_model()
    attention = decoder.config._attn_implementation
    if attention == DOCUMENTS:
        decoder.set_attn_implementation("sdpa")
    try:
        plain = float(
            model.model(
                input_ids=part.input_ids,
                position_ids=part.position_ids,
                attention_mask=part.attention_mask,
                labels=part.labels,
                shift_labels=part.labels,
                use_cache=False,
            ).loss
        )
    finally:
        if attention == DOCUMENTS:
            decoder.set_attn_implementation(attention)
    model.train(training)
    difference = abs(ours - plain) / max(abs(plain), 1e-12)
    if not difference <= _LOSS_TOLERANCE:
        raise CtxextError(
            f"the self-check failed: loss {ours:.6f}, and transformers' own is {plain:.6f}",
            "this is a bug of ctxext with this model; please report it",
        )
    return difference
