"""`train.what: position-rows`: a learned position table is trained, or its new rows, and no more.

The published best for an extended table (LongEmbed, arXiv:2404.12096): what the trained rows say
stays as it is, and only what lies between them, which no text has ever been read with, is learned.
"""

from typing import Any

import torch

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.provenance import read_record
from ctxext.checkpoints.weights.files import read_weights
from ctxext.checkpoints.weights.live_names import stored_name
from ctxext.checkpoints.weights.new_rows import new_rows
from ctxext.checkpoints.weights.position_table import position_table


def train_rows(model: Any, source: Source, position: Position, *, half: bool) -> tuple[Any, str]:
    """Make the new rows of the position table trainable, as a float32 master copy.

    The gradient of every other row is zero, so that AdamW without weight decay leaves it bit for
    bit as it is.

    Args:
        model: a causal language model as transformers loads it.
        source, position: of the checkpoint it was loaded from.
        half: it computes under autocast: the table's rows go on in bfloat16.

    Returns:
        The same model, and a sentence about what is trained.

    Raises:
        BadInput: the checkpoint has no learned table that is known.
    """
    weights = read_weights(source.folder)
    table = position_table(weights, position.model_type)
    live = dict(model.named_parameters())
    (name,) = [each for each in live if stored_name(each, weights.tensors) == table]
    model.requires_grad_(False)
    parameter = live[name]
    parameter.requires_grad_(True)
    parameter.data = parameter.data.to(torch.float32)
    rows = new_rows(read_record(source.folder), parameter.shape[0])
    chosen = torch.tensor(rows, device=parameter.device)[:, None]
    parameter.register_hook(lambda grad: grad * chosen.to(grad.device))
    if half:
        module = model.get_submodule(name.rpartition(".")[0])
        module.register_forward_hook(lambda module, inputs, out: out.to(torch.bfloat16))
    count = sum(rows)
    if count == len(rows):
        return model, f"all {count} rows of {table} are trained: no record tells which are new"
    return model, f"{count} of {len(rows)} rows of {table} are trained: those that are new"
