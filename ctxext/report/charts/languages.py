"""Fertility as bars: what each language costs, and how much of it the window holds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.charts.style import (
    LIGHT_TEXT,
    NEUTRAL,
    PALE_NEUTRAL,
    chart_title,
    new_figure,
    plain_text,
    save_figure,
    title_figure,
)
from ctxext.runs.rows.fertility import FertilityRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_fertility(
    path: Path, rows: Sequence[FertilityRow], *, model: str, reference: str | None, window: int
) -> None:
    """Write the bars of a fertility document to a .png or .svg.

    Args:
        model: whose tokenizer it is, for the title.
    """
    with plain_text():
        figure = fertility_figure(rows, reference=reference, window=window)
        title_figure(figure, chart_title("What each language costs", [model], None))
        save_figure(figure, path)


def fertility_figure(
    rows: Sequence[FertilityRow],
    *,
    reference: str | None,
    window: int,
    width: float = 5.6,
    panels: Sequence[int] = (0, 1),
    titled: bool = True,
) -> "Figure":
    """Draw the bars, the cheapest language on top.

    Args:
        reference: the language that is 1.
        window: tokens, for the title.
        width: of a panel, inches.
        panels: 0 = the cost, 1 = characters in the window.
    """
    ordered = by_cost(rows)
    height = 1.1 + 0.24 * len(rows)
    figure, axes = new_figure(len(panels), width=width, height=height)
    for axis, panel in zip(axes, panels, strict=True):
        if panel == 0:
            _cost(axis, ordered, reference)
        else:
            _bars(axis, ordered, [row.window_characters for row in ordered], "{:,.0f}")
            axis.set_title(
                f"What a window of {show_length(window)} tokens holds", loc="left", fontsize=10
            )
            axis.set_xlabel("characters" + _hatched(rows))
            axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        if not titled:
            axis.set_title("", loc="left")
    return figure


def by_cost(rows: Sequence[FertilityRow]) -> list[FertilityRow]:
    """Sort the dearest language first, which is the lowest bar."""
    return sorted(rows, key=lambda row: (row.window_characters, row.language))


def _cost(axis: "Axes", rows: Sequence[FertilityRow], reference: str | None) -> None:
    if reference is None:
        _bars(axis, rows, [row.tokens_per_character for row in rows], "{:.2f}")
        axis.set_title("What a character costs", loc="left", fontsize=10)
        axis.set_xlabel("tokens per character" + _hatched(rows))
        return
    _bars(axis, rows, [row.against_reference for row in rows], "{:.2f} ×")
    axis.axvline(1, color=LIGHT_TEXT, linewidth=1, linestyle="--", zorder=3)
    axis.set_title(f"What the text costs, {reference} = 1", loc="left", fontsize=10)
    axis.set_xlabel(f"tokens, times those of {reference}{_hatched(rows)}")


def _bars(
    axis: "Axes", rows: Sequence[FertilityRow], values: Sequence[float | None], form: str
) -> None:
    axis.margins(x=0.16, y=0.01)
    for at, (row, value) in enumerate(zip(rows, values, strict=True)):
        if value is None:
            continue
        color, hatch = (PALE_NEUTRAL, "//") if row.unknown else (NEUTRAL, "")
        axis.barh(
            at, value, height=0.72, color=color, hatch=hatch,
            edgecolor="#ffffff", linewidth=0, gid=f"bar-{at}",
        )  # fmt: skip
        axis.annotate(
            form.format(value), (value, at), xytext=(3, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    axis.set_yticks(range(len(rows)), [row.language for row in rows])
    axis.grid(visible=False, axis="y")
    axis.tick_params(axis="y", length=0)


def _hatched(rows: Sequence[FertilityRow]) -> str:
    return " (hatched: has unknown tokens)" if any(row.unknown for row in rows) else ""
