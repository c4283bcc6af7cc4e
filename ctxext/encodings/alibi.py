"""ALiBi: scores fall with the distance between query and key, by a slope of each head.

Source: Press et al., Train Short, Test Long, arXiv:2108.12409, section 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class AlibiSpec:
    """The slopes of a model.

    Attributes:
        heads: of attention.
        window: trained, tokens; the bias is defined at any distance.
        steepest: the exponent of the least slope, 2 ** -steepest (`alibi_bias_max` of MPT).
    """

    heads: int
    window: int
    steepest: float = 8.0


def slopes_of(spec: AlibiSpec) -> list[float]:
    """Compute the slope of each head, (heads,), logits per token.

    With a power of two of them: 2 ** (-steepest (h + 1) / heads). Otherwise those of the power
    below, and then every other one of the power above: the authors' code, and BLOOM, Falcon, MPT.

    >>> slopes_of(AlibiSpec(heads=4, window=512))
    [0.25, 0.0625, 0.015625, 0.00390625]
    >>> slopes_of(AlibiSpec(heads=3, window=512))
    [0.0625, 0.00390625, 0.25]
    """
    below = 2 ** math.floor(math.log2(spec.heads))
    slopes = _geometric(below, spec.steepest)
    return slopes + _geometric(2 * below, spec.steepest)[0::2][: spec.heads - below]


def _geometric(heads: int, steepest: float) -> list[float]:
    return [2 ** (-steepest * (h + 1) / heads) for h in range(heads)]


def bias(slopes: Sequence[float], queries: "Tensor", keys: "Tensor") -> "Tensor":
    """Compute what is added to the scores: -slope (query - key), above and below the diagonal.

    Args:
        slopes: (heads,) logits per token.
        queries, keys: (q,) and (k,) positions in tokens.

    Returns:
        (heads, q, k), float32; the causal mask hides where it is positive.
    """
    distance = (queries[:, None] - keys[None, :]).float()
    return -distance.new_tensor(list(slopes))[:, None, None] * distance
