"""Full fine-tuning: every weight is trained, in float32, whatever the base is stored in."""

from typing import Any

import torch

from ctxext.checkpoints.weights.files import Weights
from ctxext.checkpoints.weights.live_names import stored_name
from ctxext.errors import BadInput

PREFIX = "model."
"""What `LossModel` puts before the names of its model, in the run's saved tensors too."""


def train_all(model: Any, weights: Weights) -> Any:
    """Make every weight of a loaded model trainable, as a float32 master copy.

    A step of AdamW is often smaller than bfloat16 can tell apart, so the weights that it moves are
    float32; on a GPU autocast still computes in the base's dtype. Buffers (rope) stay as they are.

    Args:
        model: a causal language model as transformers loads it.
        weights: of the checkpoint it was loaded from.

    Returns:
        The same model.

    Raises:
        BadInput: weights that are named or shaped otherwise in the live model than on disk (fused
            experts), so that they could not be written back tensor by tensor.
    """
    stored = {name: info.shape for name, (_, info) in weights.tensors.items()}
    for name, parameter in model.named_parameters():
        if stored.get(stored_name(name, stored)) != tuple(parameter.shape):
            raise BadInput(
                f"train.what: full cannot write {name!r} back: the checkpoint has no such tensor",
                "train adapters instead: train.what=lora",
            )
    for parameter in model.parameters():
        parameter.requires_grad_(True)
        parameter.data = parameter.data.to(torch.float32)
    return model
