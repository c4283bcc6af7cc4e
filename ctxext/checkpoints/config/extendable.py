"""Say why the rope of a checkpoint is not scaled, where it is not: one reason, and the way out."""

from collections.abc import Sequence
from typing import Final

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.layouts import Layer
from ctxext.checkpoints.config.rope_forms import form_of
from ctxext.errors import BadInput
from ctxext.methods import Method

# What stands between a family and the scaling of its rope, where no key of the config says it.
_IN_CODE: Final = "its class turns by a table in its code, which no key of the config moves"
_REASONS: Final = {
    **dict.fromkeys(families.ROTARY_IN_CODE, _IN_CODE),
    "blt": "its rope stands in the configs of its four parts, which ctxext does not write",
    **dict.fromkeys(
        ("beam", "cohere_compass_text"),
        "only its windowed layers turn, and the far-reaching ones have no position",
    ),
    "recurrent_gemma": "its attention is windowed, and recurrent layers carry the rest",
}


def not_extendable(position: Position, where: str) -> BadInput | None:
    """Give the reason why no method scales a rotary checkpoint; None = one may.

    Args:
        position: of a checkpoint that rotates.
        where: the path of its config, for the message.
    """
    model_type = position.model_type
    if model_type in _REASONS:
        return BadInput(f"{where}: {model_type} cannot be extended: {_REASONS[model_type]}")
    if model_type not in families.KNOWN:
        return BadInput(
            f"{where}: model_type '{model_type}' is not known to ctxext, so neither is what its "
            "class makes of a scaled rope",
            "extend a checkpoint of a family that transformers has a class for",
        )
    if far := _far_without_position(position.layers):
        return BadInput(
            f"{where}: there is no rope to scale: {far}",
            "train it at the length you need: ctxext finetune --seq-length, with no --method",
        )
    if position.rope is None:
        return BadInput(
            f"{where}: the rope of this {model_type} is unknown, so it is not touched",
            "see ctxext inspect",
        )
    return None


def not_by_this(position: Position, method: Method, where: str) -> BadInput | None:
    """Give the reason why this method does not extend a checkpoint; None = it does."""
    if position.encoding not in method.applies_to:
        return BadInput(
            f"{where}: position encoding is '{position.encoding or 'unknown'}', which "
            f"{method.name} does not extend",
            f"{method.name} is for: {', '.join(method.applies_to)}",
        )
    reason = not_extendable(position, where)
    if reason is not None:
        return reason
    form = form_of(position.model_type)
    if not form.takes(method.rope_type) and not (
        form.takes("longrope") and not method.facts.follows_length
    ):
        known = ", ".join(sorted(form.rope_types))
        return BadInput(
            f"{where}: the class of {position.model_type} does not compute {method.rope_type} "
            f"scaling, only: {known}"
        )
    return None


def _far_without_position(layers: Sequence[Layer]) -> str | None:
    """Say that the layers that turn are all windowed, and the others have no position."""
    turning = [layer for layer in layers if layer.position_encoding not in (None, "none")]
    still = [
        layer
        for layer in layers
        if layer.position_encoding == "none" and layer.attention in ("full", None)
    ]
    windowed = [layer for layer in turning if layer.attention in ("sliding", "chunked")]
    if not still or not turning or len(windowed) < len(turning):
        return None
    reach = max((layer.window or 0 for layer in windowed), default=0)
    return (
        f"the {len(turning)} layers that turn look back {reach} tokens at most, and the "
        f"{len(still)} that reach far have no position encoding"
    )
