"""What follows from the cells of one task: pools over all depths, how far it is solved, the middle.

Plain numbers; imports no torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ctxext.evaluation.statistics.effective_length import (
    Scored,
    Threshold,
    effective_length,
    own_score,
)
from ctxext.evaluation.statistics.intervals import wilson
from ctxext.evaluation.statistics.middle import middle_of
from ctxext.runs.rows.retrieval import CellRow, EffectiveRow, MiddleRow, OwnScore, PooledRow


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


def effective_row(cells: Sequence[CellRow], rule: Threshold, window: int | None) -> EffectiveRow:
    """Say where the score of a model at a task stays.

    By exact answers; by choices where exact ones are beyond the model.

    Args:
        cells: of one model and task.
        window: the model's original window, tokens; None = not known, so nothing is inside it.
    """
    pools = {
        length: pooled([cell for cell in cells if cell.length == length])
        for length in sorted({cell.length for cell in cells})
    }
    inside = window or 0
    own = own_score(_scored(pools, "accuracy"), inside)
    for metric in ("accuracy", "choice"):
        reach = effective_length(_scored(pools, metric), rule, inside)
        if reach.perhaps is not None or not rule.relative or own is None:
            break
        pool = pools[own.length]
        if pool.chance is None or pool.choice_low is None or pool.choice_low <= pool.chance:
            break  # it does not choose better than chance either
    return EffectiveRow(
        model=cells[0].model,
        task=cells[0].task,
        effective_length=reach.surely,
        perhaps_length=reach.perhaps,
        metric=metric,
        threshold=reach.needed,
        own=OwnScore(length=own.length, accuracy=own.score) if own else None,
        by_length=tuple(pools.values()),
    )


def _scored(pools: Mapping[int, PooledRow], metric: str) -> list[Scored]:
    prefix = "" if metric == "accuracy" else f"{metric}_"
    return [
        Scored(length, score, getattr(pool, f"{prefix}low"), getattr(pool, f"{prefix}high"))
        for length, pool in pools.items()
        if (score := getattr(pool, metric)) is not None
    ]


def middle_rows(cells: Sequence[CellRow]) -> list[MiddleRow]:
    """Compare the middle with the ends at each length that has enough depths.

    Args:
        cells: of one model and task.
    """
    rows = []
    for length in sorted({cell.length for cell in cells}):
        thirds = [(c.depth, c.accuracy or 0.0, c.samples or 0) for c in cells if c.length == length]
        middle = middle_of(thirds)
        if middle is not None:
            model, task = cells[0].model, cells[0].task
            rows.append(MiddleRow(model=model, task=task, length=length, **asdict(middle)))
    return rows
