"""The seven words for how a decoder is told where its tokens sit."""

from typing import Literal

PositionEncoding = Literal[
    "rope", "partial-rope", "mixed", "learned", "sinusoidal", "alibi", "none"
]
"""`partial-rope` rotates some dims of a head only; `mixed` has layers with RoPE and without."""

ROTARY: tuple[PositionEncoding, ...] = ("rope", "partial-rope", "mixed")
"""The encodings that have frequencies to scale."""
