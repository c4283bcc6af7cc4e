"""Tell which layers of a checkpoint are told no positions."""

from typing import Final

from ctxext.checkpoints.config.detect import Position
from ctxext.encodings.kinds import ROTARY

_STILL: Final = 1e-3  # radians over the whole window, below which a pair does not turn


def stands_still(position: Position) -> bool:
    """Tell whether a checkpoint has a rope of which no pair turns (`--method drop`)."""
    rope = position.rope
    if rope is None or rope.inv_freq is None or not rope.inv_freq:
        return False
    return max(rope.inv_freq) * position.window.current < _STILL


def still_layers(position: Position) -> set[int]:
    """List the layers whose attention is told no positions."""
    still = ("none", *ROTARY) if stands_still(position) else ("none",)
    return {
        layer.index
        for layer in position.layers
        if layer.position_encoding in still and layer.attention not in (None, "linear")
    }
