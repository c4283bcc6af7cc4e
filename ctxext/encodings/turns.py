"""Count how often rotary pairs turn in a window, and what follows: bands, aliasing, a lower bound.

Plain floats, no torch.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FAST_TURNS: Final = 32
"""Turns in the trained window from which YaRN leaves a pair alone (arXiv:2309.00071, section 3.2).

At one turn and more every angle was met in training; below that some never were.
"""
ALIASED_TOKENS: Final = 2.0
"""Tokens for a turn below which a pair turns more than half a circle from one token to the next:
it cannot be told from one that turns slowly the other way (sampling below twice the frequency)."""
STANDS_STILL: Final = 1e8
"""Times more slowly from which a pair counts as one that stops: configs have no word for it, and
hold a number like 1e9 in its place."""


@dataclass(frozen=True)
class Bands:
    """The pairs of a rope by how often they turn in its trained window; indices, fastest first.

    Attributes:
        fast: at least `FAST_TURNS` times.
        middle: at least once, and less often.
        slow: they never complete a turn, so that angles beyond the window are new to the weights.
    """

    fast: tuple[int, ...]
    middle: tuple[int, ...]
    slow: tuple[int, ...]

    @property
    def complete(self) -> int:
        """How many pairs complete a turn in the trained window."""
        return len(self.fast) + len(self.middle)

    def named(self) -> dict[str, tuple[int, ...]]:
        """Give the three bands by their names."""
        return {"fast": self.fast, "middle": self.middle, "slow": self.slow}


def bands_of(inv_freq: Sequence[float], window: int) -> Bands:
    """Divide pairs into bands.

    Args:
        inv_freq: radians per token of each pair, as trained.
        window: trained, tokens.

    >>> bands_of([1.0, 0.1, 0.01, 0.001], 512)
    Bands(fast=(0,), middle=(1,), slow=(2, 3))
    """
    turns = [window * frequency / (2 * math.pi) for frequency in inv_freq]
    return Bands(
        fast=tuple(i for i, n in enumerate(turns) if n >= FAST_TURNS),
        middle=tuple(i for i, n in enumerate(turns) if 1 <= n < FAST_TURNS),
        slow=tuple(i for i, n in enumerate(turns) if n < 1),
    )


def aliased(inv_freq: Sequence[float]) -> int:
    """Count the pairs that turn by more than half a circle from one token to the next.

    No base above 1 gives any; factors of single pairs below 1 / pi do.

    >>> aliased([3.3, 1.0, 0.1])
    1
    """
    return sum(frequency * ALIASED_TOKENS > 2 * math.pi for frequency in inv_freq)


def slowed(before: Sequence[float], after: Sequence[float]) -> list[float]:
    """Compute how many times more slowly each pair turns; infinite where it stops.

    >>> slowed([1.0, 0.1, 0.01], [1.0, 0.025, 1e-11])
    [1.0, 4.0, inf]
    """
    pairs = zip(before, after, strict=True)
    return [a / b if b * STANDS_STILL > a else math.inf for a, b in pairs]


def first_negative(inv_freq: Sequence[float], limit: int) -> int | None:
    """Find the first distance m at which sum_i cos(m inv_freq[i]) is below 0.

    Up to there a key like the query weighs more than a random one, in the model of Men et al.,
    arXiv:2405.14591, section 4: a base is too small for windows beyond.

    Args:
        inv_freq: radians per token of each pair.
        limit: the largest distance that is looked at, tokens.

    Returns:
        None where the sum stays positive up to `limit`.

    >>> first_negative([10_000 ** (-i / 64) for i in range(64)], 131072)
    1707
    """
    # In h tokens the sum falls by sum_i min(2, h inv_freq[i]) at most: so far nothing is missed.
    leaps = [1]
    while leaps[-1] < limit:
        leaps.append(max(leaps[-1] + 1, int(leaps[-1] * 1.1)))
    falls = [math.fsum(min(2.0, leap * frequency) for frequency in inv_freq) for leap in leaps]
    distance, cos = 0, math.cos
    while distance <= limit:
        total = sum([cos(distance * frequency) for frequency in inv_freq])
        if total < 0:
            return distance
        safe = bisect_right(falls, total)
        distance += leaps[safe - 1] + 1 if safe else 1
    return None
