"""Find the decoder layers of a model."""

from typing import Any


def decoder_layers(model: Any) -> list[Any]:
    """List the layers that transformers can recompute, first layer first."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
