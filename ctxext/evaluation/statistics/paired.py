"""Differences of two models that read the same text, or answered the same questions.

What makes a piece of text or a question easy makes it easy for both, so that the error of a
difference is far smaller than the two errors together. Here it is taken piece by piece.
"""

import math
import statistics
from collections.abc import Sequence

from ctxext.evaluation.statistics.intervals import Z, newcombe_paired

_RESAMPLES = 1000
_SEED = 0  # the same numbers give the same error


def difference_of_ratios(
    sums: Sequence[float],
    weights: Sequence[float],
    other_sums: Sequence[float],
    other_weights: Sequence[float],
) -> tuple[float, float | None]:
    """Give `sums / weights` less the other's, of totals, and the standard error of that.

    The error is a paired bootstrap: the same blocks are drawn for both. Blocks are taken as
    independent, so they have to be as long as `bootstrap.block_length` says.

    Args:
        sums, weights: (blocks,), of the same blocks of a text in both; weights may be 0.

    Returns:
        The difference, and its standard error; None where fewer than two blocks have a weight.
    """
    import numpy as np  # here: the command line writes tables of this before it needs numpy

    table = np.array([sums, weights, other_sums, other_weights], dtype=np.float64)
    totals, blocks = table.sum(axis=1), table.shape[1]
    difference = float(totals[0] / totals[1] - totals[2] / totals[3])
    filled = int(((table[1] > 0) & (table[3] > 0)).sum())
    if filled < 2:
        return difference, None
    rng = np.random.default_rng(_SEED)
    drawn = table[:, rng.integers(blocks, size=(_RESAMPLES, blocks))].sum(axis=2)
    drawn = drawn[:, (drawn[1] > 0) & (drawn[3] > 0)]
    differences = drawn[0] / drawn[1] - drawn[2] / drawn[3]
    # Resamples of n things spread by sqrt((n - 1) / n) too little.
    return difference, float(differences.std(ddof=1) * math.sqrt(filled / (filled - 1)))


def difference_of_answers(
    scores: Sequence[float], others: Sequence[float]
) -> tuple[float, float | None, float | None, bool | None]:
    """Give the difference of two mean scores on the same questions, and whether it is noise.

    Right and wrong answers (1 and 0) are compared by Newcombe's paired interval (1998, method 10)
    and McNemar's exact test, shares of an answer by the normal interval of the mean difference.

    Args:
        scores, others: of each question, 0 to 1, in the same order.

    Returns:
        The difference, its 95 % interval, and whether it is beyond noise; None where one question
        says nothing about the spread.
    """
    count = len(scores)
    apart = [a - b for a, b in zip(scores, others, strict=True)]
    difference = math.fsum(apart) / count
    if all(value in (0, 1) for value in (*scores, *others)):
        first, second = apart.count(1), apart.count(-1)
        both = sum(a == b == 1 for a, b in zip(scores, others, strict=True))
        low, high = newcombe_paired(both, first, second, count - both - first - second)
        return difference, low, high, mcnemar(first, second) < 0.05
    if count < 2:
        return difference, None, None, None
    margin = Z * statistics.stdev(apart) / math.sqrt(count)
    return difference, difference - margin, difference + margin, abs(difference) > margin


def mcnemar(first: int, second: int) -> float:
    """Give the two-sided p of McNemar's exact test.

    >>> mcnemar(5, 0), mcnemar(6, 0), mcnemar(3, 3)
    (0.0625, 0.03125, 1.0)

    Args:
        first, second: questions that only the one, and only the other, answered rightly.
    """
    discordant = first + second
    tail = sum(math.comb(discordant, k) for k in range(min(first, second) + 1))
    return min(1.0, float(2 * tail / 2**discordant))
