"""The test that a verdict rests on: paired differences, over rows and over seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ctxext.evaluation.statistics.student import student_p
from ctxext.runs.rows.lab import Verdict

SURE = 0.05
"""A verdict is given where chance alone would be so far off less often than this."""


@dataclass(frozen=True)
class Test:
    """A mean over seeds, its error, and how likely chance is to give it.

    Attributes:
        stderr, errors, p: None where one seed says nothing about the others.
    """

    mean: float
    stderr: float | None
    errors: float | None
    p: float | None

    @property
    def verdict(self) -> Verdict:
        """Say whether the mean is above 0, below, or neither for sure."""
        if self.p is None or not self.p < SURE:
            return "undecided"
        return "holds" if self.mean > 0 else "does not hold"


def mean_over_seeds(values: Sequence[Sequence[float]]) -> tuple[float, float | None]:
    """Average over seeds what each averages over its rows; give the standard error as well.

    The rows of every seed are others, so that the spread of the seeds' means holds both what
    training and what the choice of rows does. Few seeds may agree by chance: the error is never
    taken to be below what the rows alone make it.

    Args:
        values: of each seed, a number of each row.
    """
    means = [math.fsum(rows) / len(rows) for rows in values]
    mean = math.fsum(means) / len(means)
    if len(means) < 2:
        return mean, None
    of_seeds = statistics.variance(means) / len(means)
    of_rows = (
        math.fsum(statistics.variance(rows) / len(rows) for rows in values if len(rows) > 1)
        / len(means) ** 2
    )
    return mean, math.sqrt(max(of_seeds, of_rows))


def paired_test(differences: Sequence[Sequence[float]], least_stderr: float = 0.0) -> Test:
    """Test whether differences are above 0: Student's t over the seeds.

    Args:
        differences: of each seed, of each row: what should be larger less what should be smaller.
        least_stderr: of the mean, by how finely it was measured; few seeds may agree by that alone.
    """
    mean, stderr = mean_over_seeds(differences)
    if stderr is None:
        return Test(mean, None, None, None)
    stderr = max(stderr, least_stderr)
    if stderr == 0:
        return Test(mean, 0.0, None, 1.0 if mean == 0 else 0.0)
    errors = mean / stderr
    return Test(mean, stderr, errors, student_p(errors, len(differences) - 1))
