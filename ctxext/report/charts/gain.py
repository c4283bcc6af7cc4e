"""What more context buys: nats that each window length gains over the shortest."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.report.charts.style import length_axis, line_style, mark_windows, short, side_by_side
from ctxext.report.findings.differences import Difference
from ctxext.runs.rows.row import models_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_gain(
    axis: "Axes", gained: Sequence[Difference], *, window: int | None, target: int | None
) -> None:
    """Draw one curve for each model, 95 % intervals side by side.

    Args:
        window, target: trained and extended to, tokens; marked.
    """
    places = sorted({each.place[0] for each in gained})
    models = models_of(gained)
    for index, model in enumerate(models):
        curve = sorted((d for d in gained if d.model == model), key=lambda d: d.place)
        style = line_style(index)
        shift = side_by_side(index, len(models))
        at = [d.place[0] * shift for d in curve]
        axis.plot(
            at, [d.apart.difference for d in curve], label=short(model), gid=f"gain-{index}",
            **style,
        )  # fmt: skip
        for x, apart in zip(at, (d.apart for d in curve), strict=True):
            if apart.low is not None and apart.high is not None:
                axis.vlines(x, apart.low, apart.high, color=style["color"], linewidth=1)
    length_axis(axis, places, "window length, tokens")
    axis.axhline(0, color="#666666", linewidth=0.8, zorder=1)
    axis.set_ylabel("nats a token gained")
    mark_windows(axis, places, window, target, above=True)
