"""Differences between models, and whether they exceed noise.

Standard errors and intervals are taken as independent. Models that scored the same text err alike,
so that this calls too much noise rather than too little.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ctxext.evaluation.statistics.intervals import Z, newcombe
from ctxext.report.findings.groups import ModelScore, Score
from ctxext.runs.rows.perplexity import PerplexityRow
from ctxext.runs.rows.row import Placed

Interval = tuple[float, float | None, float | None]
"""A difference with the ends of its 95 % interval; None where an error is not known."""
Compared = TypeVar("Compared", bound=Placed)


@dataclass(frozen=True)
class Difference:
    """A model against another at one place.

    Attributes:
        place: what both were measured at: a length, a pair of positions, a task and a length.
        difference: model minus the other, in the unit of what is compared.
        low, high: 95 % interval of it; None where an error is not known.
    """

    model: str
    against: str
    place: tuple[Any, ...]
    difference: float
    low: float | None
    high: float | None

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the interval leaves out 0; None where there is no interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"place": list(self.place), "beyond_noise": self.beyond_noise}


def differences(
    rows: Sequence[Compared], compare: Callable[[Compared, Compared], Interval | None]
) -> list[Difference]:
    """Compare each model with the first model at the same place.

    Args:
        compare: gives a row minus the other; None where they cannot be compared.
    """
    if not rows:
        return []
    first = rows[0].model
    base = {row.place: row for row in rows if row.model == first}
    pairs = [(row, base[row.place]) for row in rows if row.model != first and row.place in base]
    return [
        Difference(row.model, first, row.place, *interval)
        for row, other in pairs
        if (interval := compare(row, other)) is not None
    ]


def by_nll(row: PerplexityRow, other: PerplexityRow) -> Interval | None:
    """Compare negative log-likelihoods, nats per token.

    Only where both scored equally many tokens: with other tokens a nat per token is something else.
    """
    if row.nll is None or other.nll is None or row.tokens != other.tokens:
        return None
    return of_means(row.nll, other.nll, row.stderr, other.stderr)


def by_value(score: ModelScore, other: ModelScore) -> Interval | None:
    """Compare the values of a task of the harness."""
    row, base = score.row, other.row
    if row.value is None or base.value is None:
        return None
    return of_means(row.value, base.value, row.stderr, base.stderr)


def by_accuracy(row: Score, other: Score) -> Interval | None:
    """Compare shares of right answers, by Newcombe's interval from the Wilson interval of each."""
    if row.accuracy is None or row.low is None or row.high is None:
        return None
    if other.accuracy is None or other.low is None or other.high is None:
        return None
    low, high = newcombe(row.accuracy, (row.low, row.high), other.accuracy, (other.low, other.high))
    return row.accuracy - other.accuracy, low, high


def of_means(
    value: float, other: float, stderr: float | None, other_stderr: float | None
) -> Interval:
    """Give the difference of two means, low and high: ± 1.96 sqrt(se1^2 + se2^2)."""
    difference = value - other
    if stderr is None or other_stderr is None:
        return difference, None, None
    margin = Z * math.hypot(stderr, other_stderr)
    return difference, difference - margin, difference + margin
