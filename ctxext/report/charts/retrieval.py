"""Right answers, in percent: by length or by distance, and as heat maps over length and depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.charts.style import (
    HEAT,
    LIGHT_TEXT,
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
from ctxext.report.findings.groups import RetrievalGroup, Score
from ctxext.runs.rows.retrieval import CellRow
from ctxext.runs.rows.row import models_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Not pure black and white: those follow the page's theme, and a cell brings its own background.
_DARK, _PALE = "#010101", "#fefefe"
_Panel = tuple[str, str | None]  # a task, and a model; None: all of them in one chart
_MOST_COLUMNS, _TITLE = 4, 32  # maps side by side; characters over each


@dataclass(frozen=True)
class Share:
    """A share of right answers of a model at so many tokens, perhaps with its 95 % interval."""

    model: str
    at: int
    accuracy: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Line:
    """A line across a chart: a share of 1 that is marked, and what it is called."""

    share: float
    name: str


def shares_of(scores: Sequence[Score]) -> list[Share]:
    """Take the shares of scores that have one."""
    return [
        Share(score.model, score.length, score.accuracy, score.low, score.high)
        for score in scores
        if score.accuracy is not None
    ]


def chance_line(scores: Sequence[Score]) -> Line | None:
    """Make the line of chance, where it is the same for all scores."""
    chances = {score.chance for score in scores}
    chance = chances.pop() if len(chances) == 1 else None
    return Line(chance, "chance") if chance is not None else None


def draw_accuracy(
    axis: "Axes",
    shares: Sequence[Share],
    *,
    label: str,
    window: int | None,
    target: int | None = None,
    line: Line | None = None,
    order: Sequence[str],
) -> None:
    """Draw accuracy in percent, one curve for each model.

    Args:
        label: of the axis of tokens.
        window, target: tokens, marked.
        order: all models of the page; a model's place gives its look.
    """
    places = sorted({share.at for share in shares})
    models = models_of(shares)
    for index, model in enumerate(models):
        curve = sorted((s for s in shares if s.model == model), key=lambda s: s.at)
        style = line_style(order.index(model))
        shift = side_by_side(index, len(models), places)
        axis.plot(
            [share.at * shift for share in curve],
            [100 * share.accuracy for share in curve],
            label=short(model),
            gid=f"accuracy-{index}",
            **style,
        )
        bars = [
            (share.at * shift, 100 * share.low, 100 * share.high)
            for share in curve
            if share.low is not None and share.high is not None
        ]
        error_bars(axis, bars, style["color"])
    length_axis(axis, places, label)
    axis.set_ylim(-4, 104)
    axis.set_ylabel("right answers, %")
    mark_windows(axis, (places[0], places[-1]), window, target)
    if line is not None and line.share:
        axis.axhline(
            100 * line.share, color=LIGHT_TEXT, linewidth=1, linestyle=":", zorder=1,
            label=f"{line.name} {100 * line.share:.3g} %",
        )  # fmt: skip


def plot_retrieval(path: Path, group: RetrievalGroup) -> None:
    """Draw a heat map for each model and task; or curves, for a task without right answers.

    Args:
        path: .png or .svg.
        group: what was measured; with its text, for the title.
    """
    with plain_text():
        save_figure(retrieval_figure(group), path)


def retrieval_figure(group: RetrievalGroup) -> "Figure":
    """Make the figure of `plot_retrieval`: tasks below each other, models side by side."""
    models, unanswered = models_of(group.results), group.unanswered
    tasks = list(dict.fromkeys(row.task for row in group.results))
    curved: list[_Panel] = [(task, None) for task in tasks if task in unanswered]
    mapped = [task for task in tasks if task not in unanswered]
    columns = min(_MOST_COLUMNS, max(len(models) if mapped else 1, len(curved)))
    # A task's maps stand beside each other, and then all charts of curves; None fills a row up.
    maps: list[list[_Panel]] = [[(task, model) for model in models] for task in mapped]
    panels: list[_Panel | None] = []
    for row in [*maps, curved]:
        panels += [*row, *[None] * (-len(row) % columns)]
    figure, axes = new_figure(columns, rows=len(panels) // columns, width=3.6, height=2.7)
    curves = None
    for axis, panel in zip(axes, panels, strict=True):
        if panel is None:
            axis.set_axis_off()
            continue
        task, model = panel
        if model is None:
            curves = curves or axis
            _draw_unanswered(axis, group, task, models)
            continue
        rows = [row for row in group.results if (row.model, row.task) == (model, task)]
        if rows:
            draw_heat(axis, rows, window=group.window)
        name = short(model, max(12, _TITLE - len(task)))
        axis.set_title(f"{name}: {task}", loc="left", fontsize=10, pad=18)
    title_figure(figure, chart_title("Right answers in %", models, group.text))
    if curves is not None:
        legend_below(figure, curves)
    return figure


def _draw_unanswered(axis: "Axes", group: RetrievalGroup, task: str, models: Sequence[str]) -> None:
    """Draw forced choice, where it was asked, of a task without exact answers."""
    chosen = [score for score in group.by_choice if score.task == task]
    scores = chosen or [score for score in group.by_length if score.task == task]
    shares = shares_of(scores)
    if shares:
        draw_accuracy(
            axis, shares, label="length, tokens", window=group.window,
            line=chance_line(scores) if chosen else None, order=models,
        )  # fmt: skip
    what = "forced choice (no exact answer)" if chosen else "solved by none"
    axis.set_title(f"{task}: {what}", loc="left", fontsize=10, pad=18)


def draw_heat(axis: "Axes", rows: Sequence[CellRow], *, window: int | None) -> None:
    """Draw one model at one task: lengths from left to right, depths from the start of the text.

    Args:
        window: the trained window, tokens: a line after the last length inside it.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    lengths = sorted({row.length for row in rows})
    depths = sorted({row.depth for row in rows})
    cells = {(row.length, row.depth): row.accuracy for row in rows}
    size = 8 if len(lengths) <= 8 else 6
    for y, depth in enumerate(depths):
        for x, length in enumerate(lengths):
            value = cells.get((length, depth))
            if value is None:
                axis.text(x, y, "–", ha="center", va="center", fontsize=size)
                continue
            color = colormaps[HEAT](value)
            axis.add_patch(
                Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=color, edgecolor="#ffffff",
                          linewidth=0.8, gid=f"cell-{x}-{y}")
            )  # fmt: skip
            axis.text(
                x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=size,
                color=_DARK if _luminance(color) > 0.18 else _PALE,
            )  # fmt: skip
    axis.set_xlim(-0.5, len(lengths) - 0.5)
    axis.set_ylim(len(depths) - 0.5, -0.5)
    axis.set_xticks(range(len(lengths)), [show_length(n) for n in lengths])
    axis.set_yticks(range(len(depths)), [f"{100 * depth:.0f} %" for depth in depths])
    axis.set_xlabel("length, tokens")
    axis.set_ylabel("depth in the text")
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
    inside = sum(length <= (window or 0) for length in lengths)
    if 0 < inside < len(lengths):
        # Dark dashes on a pale line: seen on cells of any colour.
        axis.axvline(inside - 0.5, color=_PALE, linewidth=3)
        axis.axvline(inside - 0.5, color=_DARK, linewidth=1.5, linestyle="--")
        axis.annotate(
            "trained window", (inside - 0.5, 1.01), xycoords=("data", "axes fraction"), fontsize=8,
            ha="center", va="bottom", color=LIGHT_TEXT,
        )  # fmt: skip


def _luminance(color: tuple[float, float, float, float]) -> float:
    """Compute the relative luminance of an sRGB colour, 0..1 (WCAG 2)."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
