"""Perplexity by length and by position, one curve for each model."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.evaluation.statistics.intervals import Z
from ctxext.report.charts.style import (
    length_axis,
    line_style,
    mark_windows,
    new_figure,
    save_figure,
    short,
)
from ctxext.runs.rows.perplexity import LengthRow, PerplexityRow, PositionRow
from ctxext.runs.rows.row import models_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_NATS = 500  # of an axis; the ticks of a longer one are beyond what a float can hold


def plot_perplexity(
    path: Path,
    results: Sequence[LengthRow],
    by_position: Sequence[PositionRow],
    *,
    window: int | None,
) -> None:
    """Draw perplexity by length and by position.

    Args:
        path: .png or .svg.
        window: the first model's trained window, marked; tokens.
    """
    several = len({row.length for row in results}) > 1
    figure, axes = new_figure(2 if several and by_position else 1)
    if several:
        draw_perplexity(axes[0], results, window=window)
    if by_position:
        draw_perplexity(axes[-1], by_position, window=window)
    axes[0].legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def draw_perplexity(
    axis: "Axes",
    rows: Sequence[PerplexityRow],
    *,
    window: int | None,
    target: int | None = None,
    above: bool = False,
) -> None:
    """Draw perplexity by window length or, each bucket at its last token, by position.

    Args:
        window, target: trained and extended to, tokens; marked.
        above: their names stand over the axes.
    """
    by_position = isinstance(rows[0], PositionRow)
    places = sorted({row.at for row in rows})
    for index, model in enumerate(models_of(rows)):
        points = [(row, value) for row in rows if row.model == model and (value := _point(row))]
        if not by_position:
            points.sort(key=lambda point: point[0].at)
        axis.plot(
            [row.at for row, _ in points],
            [value for _, value in points],
            label=short(model),
            gid=f"{'position' if by_position else 'length'}-{index}",
            **line_style(index),
        )
        _errors(axis, points, index)
    label = "position in the window, tokens (up to)" if by_position else "window length, tokens"
    length_axis(axis, places, label)
    _perplexity_axis(axis, window, places, target, above)


def _point(row: PerplexityRow) -> float | None:
    """Return the height of a point; None where a model exploded."""
    known = row.perplexity is not None and row.perplexity < math.exp(_MOST_NATS)
    return row.perplexity if known else None


def _errors(axis: "Axes", points: Sequence[tuple[PerplexityRow, float]], index: int) -> None:
    """Draw bars of 1.96 standard errors of the NLL to both sides, as perplexities."""
    bars = []
    for row, value in points:
        if row.stderr is not None:
            middle, spread = math.log(value), Z * row.stderr
            # Bars of a model that explodes end where the axis does.
            low, high = max(middle - spread, -_MOST_NATS), min(middle + spread, _MOST_NATS)
            bars.append((row.at, math.exp(low), math.exp(high)))
    axis.vlines(
        [at for at, _, _ in bars],
        [low for _, low, _ in bars],
        [high for _, _, high in bars],
        color=line_style(index)["color"],
        linewidth=1,
    )


def _perplexity_axis(
    axis: "Axes", window: int | None, lengths: Sequence[int], target: int | None, above: bool
) -> None:
    axis.set_yscale("log")
    if not math.isfinite(axis.dataLim.minposy):
        axis.set_ylim(1, 10)  # every model exploded: a logarithmic axis wants some number
    axis.set_ylabel("perplexity (log scale)")
    axis.yaxis.set_major_formatter(_plain_number)
    axis.yaxis.set_minor_formatter(_plain_number)
    axis.tick_params(axis="y", which="minor", labelsize=8, labelcolor="#666666")
    mark_windows(axis, lengths, window, target, above=above)


def _plain_number(value: float, position: float) -> str:
    """Write ticks as 3 and 40, only where the first digit is 1, 2, 3 or 5, so they do not crowd."""
    first = f"{value:e}"[0]
    return f"{value:g}" if first in "1235" else ""
