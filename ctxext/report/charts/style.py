"""One look for every plot: colours that colour-blind readers tell apart, lengths on a log axis."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxext.lengths import show_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, black first.
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#8C6D00")
LIGHT_TEXT = "#555555"
# A map that is read the same by all eyes and in grey.
HEAT = "cividis"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def new_figure(
    panels: int, *, rows: int = 1, width: float = 5.6, height: float = 4.2
) -> tuple["Figure", list["Axes"]]:
    """Make a figure with `panels` axes side by side in each of its rows, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * panels, height * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(rows, panels, i + 1) for i in range(rows * panels)]
    for axis in axes:
        axis.grid(visible=True, color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    return figure, axes


def length_axis(axis: Any, lengths: Sequence[int], label: str) -> None:
    """Make an axis base-2, with a tick at each length, written as people say it (2k)."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(lengths), [show_length(n) for n in lengths])
    axis.minorticks_off()
    axis.set_xlabel(label)


def mark_window(axis: Any, tokens: int, text: str, *, above: bool = False) -> None:
    """Draw a dashed line at a window, named at its foot, or above the axes, clear of all curves."""
    axis.axvline(tokens, color="#666666", linewidth=1, linestyle="--", zorder=1)
    place: dict[str, Any] = (
        {"xy": (tokens, 1.01), "ha": "center"}
        if above
        else {"xy": (tokens, 0.02), "ha": "right", "rotation": 90}
    )
    axis.annotate(
        text, xycoords=("data", "axes fraction"), fontsize=8, color=LIGHT_TEXT, va="bottom", **place
    )


def mark_windows(
    axis: Any, places: Sequence[int], window: int | None, target: int | None, *, above: bool
) -> None:
    """Mark the trained window and the target where they lie among the places of a curve."""
    if window and places[0] <= window <= places[-1]:
        mark_window(axis, window, "trained window", above=above)
    if target and target != window and places[0] <= target <= places[-1]:
        mark_window(axis, target, "target", above=above)


def side_by_side(index: int, count: int) -> float:
    """Give what the n-th of so many curves is shifted by: intervals would cover each other."""
    return float(2 ** (0.02 * (index - (count - 1) / 2)))


def short(name: str, most: int = 30) -> str:
    """Shorten a name for a legend: its middle is cut; the end often tells two checkpoints apart."""
    if name.startswith("_"):  # matplotlib's sign for "not in the legend"
        name = "\N{ZERO WIDTH SPACE}" + name
    if len(name) <= most:
        return name
    return f"{name[: most // 3]}…{name[-(most - most // 3 - 1) :]}"


def legend_below(figure: "Figure", axis: "Axes") -> None:
    """Put the legend under the axes, where it covers no curve; none for a single one."""
    handles, labels = axis.get_legend_handles_labels()
    if len(handles) < 2:
        return
    columns = 1 if max(map(len, labels)) > 22 else 2 if max(map(len, labels)) > 12 else 3
    figure.legend(
        handles, labels, loc="outside lower center", ncol=columns, frameon=False, fontsize=9
    )


def line_style(index: int) -> dict[str, Any]:
    """Give colour and marker of the n-th curve; both differ, so that neither is needed alone."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 5,
        "linewidth": 1.8,
    }


@contextmanager
def plain_text() -> Iterator[None]:
    """Draw names as they are: no formulas between dollar signs, no word about missing glyphs."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a .png or .svg; no date in the file: the same numbers give the same bytes."""
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, metadata=metadata, facecolor="white")
