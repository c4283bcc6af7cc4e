"""The seven words for how a decoder is told where its tokens sit."""

from typing import Literal

PositionEncoding = Literal[
    "rope", "partial-rope", "mixed", "learned", "sinusoidal", "alibi", "none"
]
"""`partial-rope` rotates only some dims of a head; `mixed` has RoPE in some layers, none in others."""

ROTARY: tuple[PositionEncoding, ...] = ("rope", "partial-rope", "mixed")
"""The encodings that have frequencies to scale."""
