"""The demo's two pictures: perplexity by position, and copying by distance."""

from collections.abc import Sequence
from pathlib import Path

from ctxext.report.charts.perplexity import draw_perplexity
from ctxext.report.charts.style import (
    legend_below,
    length_axis,
    line_style,
    mark_windows,
    new_figure,
    save_figure,
    title_figure,
)
from ctxext.runs.rows.demo import CopyRow
from ctxext.runs.rows.perplexity import PositionRow
from ctxext.runs.rows.row import models_of

TITLE = "The base that ships with ctxext, and what becomes of it, on unseen Python sources"


def plot_demo(
    path: Path,
    by_position: Sequence[PositionRow],
    copying: Sequence[CopyRow],
    *,
    original: int,
    target: int,
) -> None:
    """Draw both side by side; `original` and `target` are windows, tokens."""
    figure, (left, right) = new_figure(2, width=5.4)
    models = models_of(by_position)
    draw_perplexity(left, by_position, window=original, order=models)
    distances = sorted({row.distance for row in copying})
    for index, model in enumerate(models):
        rows = [row for row in copying if row.model == model]
        right.plot(
            [row.distance for row in rows],
            [100 * (row.accuracy or 0.0) for row in rows],
            label=model,
            **line_style(index),
        )
    length_axis(right, distances, f"how far back the string stands, tokens (rows of {target})")
    mark_windows(right, (distances[0], distances[-1]), original, None)
    right.set_ylim(-3, 103)
    right.set_ylabel("tokens copied rightly, %")
    right.set_title("Is far text used?", loc="left", fontsize=10, pad=18)
    left.set_title("Is far text survived?", loc="left", fontsize=10, pad=18)
    title_figure(figure, TITLE)
    legend_below(figure, left)
    save_figure(figure, path)
