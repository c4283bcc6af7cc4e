"""What several sections share: the size of a chart, and one chart with its legend."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ctxext.report.charts.style import legend_below, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.6  # inches of a chart: its text is readable on a phone
HEIGHT = 3.7


def one_chart(draw: Callable[["Axes"], None], *, height: float = HEIGHT) -> "Figure":
    """Make a figure with one chart, `height` inches, its legend below."""
    new, (axis,) = new_figure(1, width=WIDTH, height=height)
    draw(axis)
    legend_below(new, axis)
    return new
