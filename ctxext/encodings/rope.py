"""Compute rotary position encoding: frequencies and wavelengths, as plain floats, no torch.

Source: Su et al., RoFormer, arXiv:2104.09864, section 3.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RopeSpec:
    """An unscaled rotary encoding, as the checkpoint was trained.

    Attributes:
        rotary_dim: rotated dims of a head, even; pairs = rotary_dim / 2.
        rope_theta: base of the geometric frequency series.
        original_max_position_embeddings: trained window, tokens.
    """

    rotary_dim: int
    rope_theta: float
    original_max_position_embeddings: int


def inv_freq_of(spec: RopeSpec) -> list[float]:
    """Compute radians per token of each pair: rope_theta ** (-2 i / d), i = 0 .. d/2-1, float64.

    >>> inv_freq_of(RopeSpec(rotary_dim=4, rope_theta=10_000.0, original_max_position_embeddings=8))
    [1.0, 0.01]
    """
    d = spec.rotary_dim
    return [spec.rope_theta ** (-2 * i / d) for i in range(d // 2)]


def wavelengths(inv_freq: Sequence[float]) -> list[float]:
    """Compute the tokens that each pair needs for one full turn: 2 pi / inv_freq."""
    return [2 * math.pi / f for f in inv_freq]
