"""What more context buys: nats that each window length gains over the shortest."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.report.charts.style import (
    error_bars,
    length_axis,
    line_style,
    mark_windows,
    short,
    side_by_side,
)
from ctxext.report.findings.differences import Difference
from ctxext.runs.rows.row import models_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_gain(
    axis: "Axes",
    gained: Sequence[Difference],
    *,
    window: int | None,
    target: int | None,
    order: Sequence[str],
) -> None:
    """Draw one curve for each model, 95 % intervals side by side.

    Args:
        window, target: trained and extended to, tokens; marked.
        order: all models of the page; a model's place gives its look.
    """
    places = sorted({each.place[0] for each in gained})
    models = models_of(gained)
    for index, model in enumerate(models):
        curve = sorted((d for d in gained if d.model == model), key=lambda d: d.place)
        style = line_style(order.index(model))
        shift = side_by_side(index, len(models), places)
        points = [(d.place[0] * shift, d.apart) for d in curve]
        axis.plot(
            [at for at, _ in points], [apart.difference for _, apart in points],
            label=short(model), gid=f"gain-{index}", **style,
        )  # fmt: skip
        bars = [
            (at, apart.low, apart.high)
            for at, apart in points
            if apart.low is not None and apart.high is not None
        ]
        error_bars(axis, bars, style["color"])
    length_axis(axis, places, "window length, tokens")
    axis.axhline(0, color="#666666", linewidth=0.8, zorder=1)
    axis.set_ylabel("nats a token gained")
    mark_windows(axis, (places[0], places[-1]), window, target)
