"""Say why a checkpoint is not extended, where it is not: one reason, and the way out."""

from collections.abc import Sequence
from typing import Final

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.layouts import Layer
from ctxext.checkpoints.config.rope_forms import form_of
from ctxext.checkpoints.config.still import still_layers
from ctxext.checkpoints.config.tables import TABLES
from ctxext.encodings.kinds import ROTARY, PositionEncoding
from ctxext.errors import BadInput
from ctxext.methods import Method, ScoreExtension, SlopesExtension, methods_for

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
    "git": "its table is one of two, the other of the pictures that it reads, and ctxext has not "
    "measured what a longer text makes of both",
    "imagegpt": "its positions are those of the points of a picture, of which it has no more",
    "prophetnet": "beside its table stands a relative bias whose buckets end with the window",
    "reformer": "its positions are sums of two axes (axial_pos_embds), not rows of a table",
    "xlm": "it looks both ways, and its table may be one of sinusoids that its class sets again",
    **dict.fromkeys(
        ("marian", "pegasus"),
        "its file holds its sinusoids as a table of the trained window, which its class does not "
        "compute further",
    ),
    **dict.fromkeys(
        sorted(families.NO_ATTENTION),
        "it has no attention, so nothing of it ends with a window; measure how far it reads",
    ),
}
# What to do where people look for a method of another encoding.
_INSTEAD: Final[dict[PositionEncoding, str]] = {
    "sinusoidal": "; its class computes the waves from the position alone and no key of its config "
    "divides it, so nothing can be interpolated",
}
_GONE: Final = (
    "the rows that an extended table of positions had before are gone, so there is nothing to take "
    "back"
)


def not_extendable(position: Position, where: str) -> BadInput | None:
    """Give the reason why no method extends a checkpoint; None = one may.

    Args:
        where: the path of its config, for the message.
    """
    model_type = position.model_type
    if model_type in _REASONS:
        return BadInput(f"{where}: {model_type} cannot be extended: {_REASONS[model_type]}")
    if model_type not in families.KNOWN:
        return BadInput(
            f"{where}: model_type '{model_type}' is not known to ctxext, so neither is what its "
            "class makes of a scaled rope",
            "docs/families.md lists the families that ctxext extends",
        )
    if position.encoding not in ROTARY:
        return _no_table(position, where)
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
        return _another_method(position, method, where)
    if method.makes is ScoreExtension:
        return _nothing_still(position, method, where)
    reason = not_extendable(position, where)
    if reason is not None:
        return reason
    if _of_another_family(position, method):
        return BadInput(
            f"{where}: the slopes of {position.model_type} follow from its number of heads, and no "
            "key of its config divides them",
            f"as they are: --method {', '.join(_others(position, method))}",
        )
    if position.encoding not in ROTARY or not method.of_rope:
        return None
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


def _nothing_still(position: Position, method: Method, where: str) -> BadInput | None:
    """Say that no layer of a checkpoint is without positions."""
    if still_layers(position):
        return None
    return BadInput(
        f"{where}: {method.name} sharpens attention that is told no positions, and every layer of "
        f"this {position.model_type} that attends is told them: its rope turns",
        f"stop it first, or choose among: {', '.join(_others(position, method))}",
    )


def _another_method(position: Position, method: Method, where: str) -> BadInput:
    """Write the reason for a method of another encoding, with those that fit."""
    encoding = position.encoding
    if method.takes_back and encoding is not None:
        return BadInput(f"{where}: {_GONE}", "use the checkpoint that it was made of")
    others = _others(position, method)
    return BadInput(
        f"{where}: position encoding is '{encoding or 'unknown'}', which {method.name} does not "
        f"extend{_INSTEAD.get(encoding, '') if encoding else ''}",
        f"methods for '{encoding}': {', '.join(others)}"
        if others
        else f"{method.name} is for: {', '.join(method.applies_to)}",
    )


def _others(position: Position, method: Method) -> list[str]:
    """List the methods that extend a checkpoint forwards, beside one."""
    return [
        each.name
        for each in methods_for(position.encoding)
        if not (each is method or each.takes_back or _of_another_family(position, each))
        and not (each.makes is ScoreExtension and not still_layers(position))
    ]


def _of_another_family(position: Position, method: Method) -> bool:
    """Tell whether a method writes slopes into a config whose class reads none."""
    return method.makes is SlopesExtension and position.model_type != families.LAB


def _no_table(position: Position, where: str) -> BadInput | None:
    """Say that a learned table is not known to ctxext."""
    if position.encoding == "learned" and position.model_type not in TABLES:
        return BadInput(f"{where}: where {position.model_type} keeps its table is not known")
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
