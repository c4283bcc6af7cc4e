"""Find up to which length a model reads: the longest with a score above a threshold.

A length counts as reached only where the interval of its score says so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ctxext.errors import BadInput

OWN = "own:"
_ROUNDING = 1e-12
_LEAST = 0.2  # a model that is right less often in its own window has nothing to keep


@dataclass(frozen=True)
class Threshold:
    """`0.856` (RULER's rule) or `own:0.85` (that share of the model's score in its own window)."""

    value: float
    relative: bool

    def __str__(self) -> str:
        return f"{OWN if self.relative else ''}{self.value:g}"


def parse_threshold(text: str) -> Threshold:
    """Parse `--threshold`.

    Raises:
        BadInput: no share between 0 and 1.
    """
    number = text.removeprefix(OWN)
    try:
        value = float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise BadInput(f"--threshold is {text!r}, and has to be a share: 0.856, 85.6% or own:0.85")
    return Threshold(value, text.startswith(OWN))


@dataclass(frozen=True)
class Scored:
    """The score of a length, 0 to 1, with its 95 % interval."""

    length: int
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class Reach:
    """Up to which length a score holds.

    Attributes:
        surely: tokens up to which every interval lies at or above what is needed; None: nowhere.
        perhaps: tokens up to which no interval lies below it; at least `surely`.
        needed: the score that is needed; None: the model has none to keep anything of.
    """

    surely: int | None = None
    perhaps: int | None = None
    needed: float | None = None


def own_score(scores: Sequence[Scored], window: int) -> Scored | None:
    """Choose a model's own score: at the longest length inside its window; None: none is there."""
    inside = [each for each in scores if each.length <= window]
    return max(inside, key=lambda each: each.length, default=None)


def effective_length(scores: Sequence[Scored], threshold: Threshold, window: int) -> Reach:
    """Find the longest length at which its score, and every shorter one's, reaches the threshold.

    RULER (arXiv:2404.06654, section 4) fixes 85.6 %, Llama-2-7B's at 4k; NoLiMa (arXiv:2502.05167)
    takes 85 % of the model's own score at a short length, which needs no reference model. The
    interval of `score - share x own score` comes from the intervals of both (Zou and Donner, 2008:
    what Newcombe's is for a difference).

    Args:
        window: the model's original window, tokens; a relative threshold counts against a length
            inside it.
    """
    own = own_score(scores, window) if threshold.relative else None
    if threshold.relative and (own is None or own.score < _LEAST):
        return Reach()
    needed = threshold.value * (own.score if own else 1.0)
    surely = perhaps = None
    sure = True
    for each in sorted(scores, key=lambda each: each.length):
        low, high = _margins(each, own, threshold.value)
        if high < -_ROUNDING:
            break
        perhaps = each.length
        sure = sure and low >= -_ROUNDING
        surely = each.length if sure else surely
    return Reach(surely, perhaps, needed)


def _margins(scored: Scored, own: Scored | None, share: float) -> tuple[float, float]:
    """Give the interval of how far a score is above what is needed."""
    if own is None:
        return scored.low - share, scored.high - share
    apart = scored.score - share * own.score
    if scored.length == own.length:  # the same answers: no error between them
        return apart, apart
    return (
        apart - math.hypot(scored.score - scored.low, share * (own.high - own.score)),
        apart + math.hypot(scored.high - scored.score, share * (own.score - own.low)),
    )
