"""Sinusoids: a vector of fixed waves for each position, added to the embedding of its token.

Source: Vaswani et al., Attention Is All You Need, arXiv:1706.03762, section 3.5.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SinusoidalSpec:
    """Waves of the widths of a model, as it was trained.

    Attributes:
        width: numbers of a vector, even: a sine and a cosine of each of width / 2 waves.
        base: the longest wave is nearly 2 pi base tokens long.
        window: trained, tokens.
    """

    width: int
    base: float
    window: int


def inv_freq_of(spec: SinusoidalSpec) -> list[float]:
    """Compute radians per token of each wave: base ** (-2 i / width), (width / 2,) in float64.

    >>> inv_freq_of(SinusoidalSpec(width=4, base=10_000.0, window=512))
    [1.0, 0.01]
    """
    return [spec.base ** (-2 * i / spec.width) for i in range(spec.width // 2)]


def sinusoids(spec: SinusoidalSpec, positions: "Tensor", *, factor: float = 1.0) -> "Tensor":
    """Compute the vectors of positions.

        out[p, 2 i]     = sin(p / factor * inv_freq[i])
        out[p, 2 i + 1] = cos(p / factor * inv_freq[i])

    Args:
        positions: (n,) in tokens, any dtype; negative ones are defined too.
        factor: by which positions are interpolated: 4 squeezes four windows into the trained one.

    Returns:
        (n, width), float64.
    """
    at = positions.double() / factor
    angles = at[:, None] * at.new_tensor(inv_freq_of(spec))
    out = at.new_empty(len(at), spec.width)
    out[:, 0::2], out[:, 1::2] = angles.sin(), angles.cos()
    return out


def shift(spec: SinusoidalSpec, distance: float, like: "Tensor") -> "Tensor":
    """Compute the matrix M with sinusoids(p + distance) = sinusoids(p) @ M: a rotation.

    That it does not depend on p is why attention can look a fixed distance back.

    Args:
        distance: tokens.
        like: a tensor whose device the result has.

    Returns:
        (width, width), float64, orthogonal.
    """
    matrix = like.new_zeros(spec.width, spec.width).double()
    angles = distance * matrix.new_tensor(inv_freq_of(spec))
    i = range(0, spec.width, 2)
    j = range(1, spec.width, 2)
    matrix[i, i] = matrix[j, j] = angles.cos()
    matrix[j, i], matrix[i, j] = angles.sin(), -angles.sin()
    return matrix
