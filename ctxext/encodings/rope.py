"""Rotary encoding: pairs of dims of queries and keys turn with the position of their token.

Source: Su et al., RoFormer, arXiv:2104.09864, section 3.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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

    @property
    def window(self) -> int:
        """The trained window, by its name in the other encodings."""
        return self.original_max_position_embeddings


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


def rotated(x: "Tensor", positions: "Tensor", inv_freq: Sequence[float]) -> "Tensor":
    """Turn the first dims of queries or keys by the angles of their positions.

    Pair i is dims i and i + d/2, as in transformers; with angle a = position * inv_freq[i]:
    (x cos a - y sin a, y cos a + x sin a). Dims from d on stay (partial rotary encoding).

    Args:
        x: (..., n, head_dim).
        positions: (n,) in tokens.
        inv_freq: (d/2,) radians per token, d <= head_dim.

    Returns:
        Of the shape and dtype of x; angles are computed in float64.
    """
    pairs = len(inv_freq)
    at = positions.double()
    angles = at[:, None] * at.new_tensor(list(inv_freq))
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x[..., :pairs], x[..., pairs : 2 * pairs]
    out = x.clone()
    out[..., :pairs] = first * cos - second * sin
    out[..., pairs : 2 * pairs] = second * cos + first * sin
    return out
