"""Perplexity by length and by position, one curve for each model."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.evaluation.statistics.intervals import Z
from ctxext.report.charts.style import (
    chart_title,
    error_bars,
    legend_below,
    length_axis,
    line_style,
    mark_windows,
    new_figure,
    plain_text,
    save_figure,
    short,
    side_by_side,
    title_figure,
)
from ctxext.runs.rows.perplexity import LengthRow, PerplexityRow, PositionRow
from ctxext.runs.rows.row import models_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NATS = 500  # of an axis; the ticks of a longer one are beyond what a float can hold


def plot_perplexity(
    path: Path,
    results: Sequence[LengthRow],
    by_position: Sequence[PositionRow],
    *,
    window: int | None,
    text: str,
) -> None:
    """Draw perplexity by length and by position.

    Args:
        path: .png or .svg.
        window: the first model's trained window, marked; tokens.
        text: what was read, for the title.
    """
    with plain_text():
        save_figure(perplexity_figure(results, by_position, window=window, text=text), path)


def perplexity_figure(
    results: Sequence[LengthRow],
    by_position: Sequence[PositionRow],
    *,
    window: int | None,
    text: str,
) -> "Figure":
    """Make the figure of `plot_perplexity`."""
    several = len({row.length for row in results}) > 1
    order = models_of([*results, *by_position])
    panels: list[tuple[str, Sequence[PerplexityRow]]] = [
        *([("by window length", results)] if several else []),
        *([("by position in the longest window", by_position)] if by_position else []),
    ]
    figure, axes = new_figure(max(1, len(panels)))
    for axis, (name, rows) in zip(axes, panels, strict=False):
        draw_perplexity(axis, rows, window=window, order=order)
        axis.set_title(name, loc="left", fontsize=10, pad=18)
    title_figure(figure, chart_title("Perplexity", order, text))
    legend_below(figure, axes[0])
    return figure


def draw_perplexity(
    axis: "Axes",
    rows: Sequence[PerplexityRow],
    *,
    window: int | None,
    target: int | None = None,
    order: Sequence[str],
) -> None:
    """Draw perplexity by window length or, each bucket at its last token, by position.

    Args:
        window, target: trained and extended to, tokens; marked.
        order: all models of the page; a model's place gives its look.
    """
    by_position = isinstance(rows[0], PositionRow)
    places = sorted({row.at for row in rows})
    models = models_of(rows)
    for index, model in enumerate(models):
        points = [(row, value) for row in rows if row.model == model and (value := _point(row))]
        if not by_position:
            points.sort(key=lambda point: point[0].at)
        style = line_style(order.index(model))
        shift = side_by_side(index, len(models), places)
        axis.plot(
            [row.at * shift for row, _ in points],
            [value for _, value in points],
            label=short(model),
            gid=f"{'position' if by_position else 'length'}-{index}",
            **style,
        )
        error_bars(axis, _bars(points, shift), style["color"])
    label = "position in the window, tokens (up to)" if by_position else "window length, tokens"
    length_axis(axis, places, label)
    perplexity_axis(axis)
    mark_windows(axis, (places[0], places[-1]), window, target)


def _point(row: PerplexityRow) -> float | None:
    """Return the height of a point; None where a model exploded."""
    known = row.perplexity is not None and row.perplexity < math.exp(MOST_NATS)
    return row.perplexity if known else None


def _bars(
    points: Sequence[tuple[PerplexityRow, float]], shift: float
) -> list[tuple[float, float, float]]:
    """Make bars of 1.96 standard errors of the NLL to both sides, as perplexities."""
    bars = []
    for row, value in points:
        if row.stderr is not None:
            middle, spread = math.log(value), Z * row.stderr
            # Bars of a model that explodes end where the axis does.
            low, high = max(middle - spread, -MOST_NATS), min(middle + spread, MOST_NATS)
            bars.append((row.at * shift, math.exp(low), math.exp(high)))
    return bars


def perplexity_axis(axis: "Axes") -> None:
    """Make the axis of perplexities logarithmic, with plain numbers."""
    axis.set_yscale("log")
    if not math.isfinite(axis.dataLim.minposy):
        axis.set_ylim(1, 10)  # every model exploded: a logarithmic axis wants some number
    axis.set_ylabel("perplexity (log scale)")

    def plain_number(value: float, _: float) -> str:
        """Write ticks as 3 and 40; where there are many, only those that do not crowd."""
        low, high = axis.get_ylim()
        crowded = high > 10 * low and f"{value:e}"[0] not in "1235"
        return "" if crowded else f"{value:g}"

    axis.yaxis.set_major_formatter(plain_number)
    axis.yaxis.set_minor_formatter(plain_number)
    axis.tick_params(axis="y", which="minor", labelsize=8, labelcolor="#666666")
