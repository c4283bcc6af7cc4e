"""A chart that stands alone on a page, or beside others in a file: what is drawn on one axis."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctxext.report.charts.style import legend_below, new_figure, title_figure
from ctxext.report.charts.svg import Chart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _NARROW = 5.2, 4.4  # inches of a panel, of up to two and of more


@dataclass(frozen=True)
class Panel:
    """What is drawn on one axis, and its words.

    Attributes:
        title: what it shows, a few words.
        words: the numbers that matter, for who does not see it.
        draw: draws it; its ids (`gid`) are unique among the panels of a figure.
        tips: as of `Chart`.
        height: inches.
    """

    title: str
    words: str
    draw: Callable[["Axes"], None]
    tips: Mapping[str, Sequence[str]] = field(default_factory=dict)
    height: float = 3.7


def alone(panel: Panel, *, width: float) -> Chart:
    """Make a chart of one panel, `width` inches, for a page that writes its title."""

    def draw() -> "Figure":
        figure, (axis,) = new_figure(1, width=width, height=panel.height)
        panel.draw(axis)
        legend_below(figure, axis)
        return figure

    return Chart(panel.title, panel.words, draw, panel.tips)


def beside(title: str, panels: Sequence[Panel]) -> Chart:
    """Make a chart of panels side by side, the legend of the first below, the title above."""

    def draw() -> "Figure":
        height = max(panel.height for panel in panels)
        width = _WIDTH if len(panels) < 3 else _NARROW
        figure, axes = new_figure(len(panels), width=width, height=height)
        for axis, panel in zip(axes, panels, strict=True):
            panel.draw(axis)
        marked = any(axis.texts for axis in axes)  # names of marks stand over the axes
        for axis, panel in zip(axes, panels, strict=True):
            axis.set_title(panel.title, loc="left", fontsize=10, pad=18 if marked else 6)
        title_figure(figure, title)
        legend_below(figure, axes[0])
        return figure

    words = " ".join(f"{panel.title}: {panel.words}" for panel in panels)
    tips = {gid: texts for panel in panels for gid, texts in panel.tips.items()}
    return Chart(title, words, draw, tips)
