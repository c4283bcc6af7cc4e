"""Cells of one task and length taken together, over all their depths."""

import math
from collections.abc import Sequence

from ctxext.evaluation.statistics.intervals import wilson
from ctxext.runs.rows.retrieval import CellRow, PooledRow


def pooled(cells: Sequence[CellRow]) -> PooledRow:
    """Pool cells, each weighted by its samples; what one of them lacks, all of them lack."""
    sizes = [cell.samples or 0 for cell in cells]
    samples = sum(sizes)

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value * n for value, n in zip(values, sizes, strict=True) if value is not None]
        return sum(known) / samples if len(known) == len(cells) else None

    def interval(share: float | None) -> tuple[float, float] | tuple[None, None]:
        return wilson(share * samples, samples) if share is not None else (None, None)

    accuracy, choice = mean([c.accuracy for c in cells]), mean([c.choice for c in cells])
    (low, high), (choice_low, choice_high) = interval(accuracy), interval(choice)
    errors = [
        c.gain_stderr * n for c, n in zip(cells, sizes, strict=True) if c.gain_stderr is not None
    ]
    return PooledRow(
        length=cells[0].length,
        accuracy=accuracy,
        low=low,
        high=high,
        samples=samples,
        choice=choice,
        choice_low=choice_low,
        choice_high=choice_high,
        chance=cells[0].chance,
        gain=mean([cell.gain for cell in cells]),
        gain_stderr=math.hypot(*errors) / samples if len(errors) == len(cells) else None,
    )
