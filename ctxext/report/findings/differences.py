"""Differences between scores, and whether they exceed noise.

Scores of the same text or the same questions are compared piece by piece (`paired`): what makes a
piece hard makes it hard for both. Others are taken as independent, which calls too much noise.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, TypeVar

from ctxext.evaluation.statistics.intervals import Z, newcombe
from ctxext.evaluation.statistics.paired import difference_of_answers, difference_of_ratios
from ctxext.report.findings.groups import ModelScore, Score
from ctxext.runs.rows.blocks import Blocks
from ctxext.runs.rows.perplexity import LengthRow, PerplexityRow, PositionRow
from ctxext.runs.rows.row import Placed, models_of

Compared = TypeVar("Compared", bound=Placed)


@dataclass(frozen=True)
class Apart:
    """How far a score is from another, in the unit of both.

    Attributes:
        low, high: the 95 % interval; None where an error is not known.
        beyond_noise: None where an error is not known.
        paired: whether it was taken piece by piece.
    """

    difference: float
    low: float | None
    high: float | None
    beyond_noise: bool | None
    paired: bool = False

    @classmethod
    def of_error(cls, difference: float, stderr: float | None, *, paired: bool = False) -> "Apart":
        """Make the interval of a normal error."""
        if stderr is None:
            return cls(difference, None, None, None, paired)
        low, high = difference - Z * stderr, difference + Z * stderr
        return cls(difference, low, high, low > 0 or high < 0, paired)

    @property
    def margin(self) -> float | None:
        """Half of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def nats(apart: Apart | None, *, signed: bool = True) -> str:
    """Write `+0.104 ± 0.018`, or a dash.

    Args:
        signed: False writes the amount alone.
    """
    if apart is None:
        return "–"
    number = f"{apart.difference:+.3f}" if signed else f"{abs(apart.difference):.3f}"
    return number + ("" if apart.margin is None else f" ± {apart.margin:.3f}")


@dataclass(frozen=True)
class Difference:
    """A model against another at one place.

    Attributes:
        place: what both were measured at: a length, a pair of positions, a task and a length.
        apart: model minus the other.
    """

    model: str
    against: str
    place: tuple[Any, ...]
    apart: Apart

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "against": self.against,
            "place": list(self.place),
            **asdict(self.apart),
        }


def differences(
    rows: Sequence[Compared], compare: Callable[[Compared, Compared], Apart | None]
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
        Difference(row.model, first, row.place, apart)
        for row, other in pairs
        if (apart := compare(row, other)) is not None
    ]


def gains(rows: Sequence[LengthRow]) -> list[Difference]:
    """Compare each model's lengths with its shortest, on the same text: what more context buys.

    Returns:
        Nats per token that each longer window gains; below 0 it loses. Nothing where windows cannot
        be paired.
    """
    out = []
    for model in models_of(rows):
        own = sorted((row for row in rows if row.model == model), key=lambda row: row.length)
        for row in own[1:]:
            apart = _gain(row, own[0])
            if apart is not None and apart.paired:
                out.append(Difference(model, model, row.place, apart))
    return out


def _gain(row: LengthRow, shortest: LengthRow) -> Apart | None:
    if row.gain is not None:  # aligned windows, taken window by window when it was measured
        return Apart.of_error(row.gain, row.gain_stderr, paired=True)
    return nats_apart(shortest, row)


def by_nll(row: PerplexityRow, other: PerplexityRow) -> Apart | None:
    """Compare negative log-likelihoods, nats per token.

    Only where both scored equally many tokens: with other tokens a nat per token is something else.
    """
    return nats_apart(row, other) if row.tokens == other.tokens else None


def nats_apart(row: PerplexityRow, other: PerplexityRow) -> Apart | None:
    """Compare negative log-likelihoods of the same text, whatever was read before each token."""
    if row.nll is None or other.nll is None:
        return None
    blocks, others = _blocks(row), _blocks(other)
    if blocks is not None and others is not None and blocks.same_place(others):
        return _paired(blocks, others)
    return of_means(row.nll, other.nll, row.stderr, other.stderr)


@lru_cache(maxsize=1024)
def _paired(blocks: Blocks, others: Blocks) -> Apart:
    # Kept: terminal, page, JSON and verdict ask for the same differences, 16 ms each.
    difference, stderr = difference_of_ratios(
        blocks.sums, blocks.weights, others.sums, others.weights
    )
    return Apart.of_error(difference, stderr, paired=True)


def _blocks(row: PerplexityRow) -> Blocks | None:
    return row.blocks if isinstance(row, LengthRow | PositionRow) else None


def by_value(score: ModelScore, other: ModelScore) -> Apart | None:
    """Compare the values of a task of the harness."""
    row, base = score.row, other.row
    if row.value is None or base.value is None:
        return None
    return of_means(row.value, base.value, row.stderr, base.stderr)


def by_accuracy(row: Score, other: Score) -> Apart | None:
    """Compare shares of right answers: question by question where both were asked the same.

    Else by Newcombe's interval from the Wilson interval of each.
    """
    if row.accuracy is None or row.low is None or row.high is None:
        return None
    if other.accuracy is None or other.low is None or other.high is None:
        return None
    if row.answers and row.questions == other.questions:
        return Apart(*difference_of_answers(row.answers, other.answers), paired=True)
    low, high = newcombe(row.accuracy, (row.low, row.high), other.accuracy, (other.low, other.high))
    return Apart(row.accuracy - other.accuracy, low, high, low > 0 or high < 0)


def of_means(value: float, other: float, stderr: float | None, other_stderr: float | None) -> Apart:
    """Compare two independent means: ± 1.96 sqrt(se1^2 + se2^2)."""
    if stderr is None or other_stderr is None:
        return Apart.of_error(value - other, None)
    return Apart.of_error(value - other, math.hypot(stderr, other_stderr))
