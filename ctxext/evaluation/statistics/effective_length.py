"""Find up to which length a model reads: the longest with a score above a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

from ctxext.errors import BadInput

OWN = "own:"
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


def own_length(lengths: Sequence[int], window: int) -> int:
    """Choose where a model's own score is taken: the longest measured length in its window."""
    return max((n for n in lengths if n <= window), default=min(lengths))


def effective_length(
    scores: Sequence[tuple[int, float]], threshold: Threshold, window: int
) -> tuple[int | None, float | None]:
    """Find the longest length at which its score, and every shorter one's, reaches the threshold.

    RULER (arXiv:2404.06654, section 4) fixes 85.6 %, Llama-2-7B's at 4k; NoLiMa (arXiv:2502.05167)
    takes 85 % of the model's own score at a short length, which needs no reference model.

    Args:
        scores: (tokens, score 0..1) of each measured length.
        window: the model's original window, tokens.

    Returns:
        The length (None: none reaches it) and the score that was needed (None: the model's own is
        too low to keep anything of).
    """
    table = dict(scores)
    needed = threshold.value
    if threshold.relative:
        own_score = table[own_length(list(table), window)]
        if own_score < _LEAST:
            return None, None
        needed *= own_score
    reached = None
    for length in sorted(table):
        if table[length] < needed - 1e-12:
            break
        reached = length
    return reached, needed
