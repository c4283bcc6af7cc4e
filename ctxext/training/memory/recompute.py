"""Which layers recompute their activations in the backward pass: all, none, or the first few.

The last layers keep theirs first: theirs are needed first, and are gone by the time an early layer
recomputes, so that kept and recomputed activations are never added up.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from ctxext.checkpoints.live.head import without_peft
from ctxext.checkpoints.live.layers import decoder_layers
from ctxext.errors import BadInput

Checkpointer = Callable[..., Any]


def recompute_first(model: Any, count: int | None, checkpointer: Checkpointer | None = None) -> int:
    """Recompute the activations of the first `count` layers; the others keep theirs.

    Args:
        model: a causal language model, with or without adapters; changed in place.
        count: None = every layer; more than there are = every layer.
        checkpointer: what runs a recomputed layer, called with a function and its inputs; None =
            torch's non-reentrant `checkpoint`.

    Returns:
        How many layers recompute.

    Raises:
        BadInput: the model's class cannot recompute at all.
    """
    layers = decoder_layers(model)
    if count == 0:
        for layer in layers:
            layer.gradient_checkpointing = False
        return 0
    base = without_peft(model)
    enable = getattr(base, "activation_checkpointing_enable", None)
    try:
        # Under either of its names: it also sets what some decoders ask before they call a layer.
        (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})
    except ValueError as error:
        raise BadInput(
            f"memory.recompute: {type(base).__name__} cannot recompute activations",
            "use --recompute none",
        ) from error
    if not layers:
        if count is None and checkpointer is None:
            return _number_of_layers(base)
        raise BadInput(
            f"memory: the layers of {type(base).__name__} are not known one by one",
            "use --recompute all or none, and --offload none",
        )
    # transformers makes the embeddings a leaf that takes a gradient, which only reentrant
    # checkpoints need: both would be held for the whole pass.
    base.disable_input_require_grads()
    run = checkpointer or partial(checkpoint, use_reentrant=False)
    first = len(layers) if count is None else min(count, len(layers))
    for index, layer in enumerate(layers):
        layer.gradient_checkpointing = index < first
        layer._gradient_checkpointing_func = run
    return first


def _number_of_layers(model: Any) -> int:
    return int(getattr(model.config.get_text_config(), "num_hidden_layers", 0))
