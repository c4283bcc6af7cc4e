"""One look for every plot: colours that colour-blind readers tell apart, lengths on a log axis."""

import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxext.lengths import show_length

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, black first; then three darker ones.
COLORS = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#0072B2", "#CC79A7", "#8C6D00",
    "#882255", "#332288",
)  # fmt: skip
LINES = ("-", "--", ":", "-.")  # the second ten are dashed, and so on
LIGHT_TEXT = "#555555"
# Of what belongs to no model: a model's colour means that model, on every chart of a page.
NEUTRAL, PALE_NEUTRAL = "#767676", "#aaaaaa"
# A map that is read the same by all eyes and in grey.
HEAT = "cividis"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")


def new_figure(
    panels: int, *, rows: int = 1, width: float = 5.6, height: float = 4.2
) -> tuple["Figure", list["Axes"]]:
    """Make a figure with `panels` axes side by side in each of its rows, drawn without a screen."""
    figure = blank_figure(width * panels, height * rows)
    axes = [figure.add_subplot(rows, panels, i + 1) for i in range(rows * panels)]
    for axis in axes:
        plain_axis(axis)
    return figure, axes


def blank_figure(width: float, height: float) -> "Figure":
    """Make a figure without axes, inches, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_axis(axis: "Axes") -> None:
    """Give axes the look of all charts: a pale grid behind, no lines above and at the right."""
    axis.grid(visible=True, color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def length_axis(axis: Any, lengths: Sequence[int], label: str) -> None:
    """Make an axis base-2, with a tick at each length, written as people say it (2k)."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(lengths), [show_length(n) for n in lengths])
    axis.minorticks_off()
    axis.set_xlabel(label)


def mark_windows(axis: Any, ends: tuple[int, int], window: int | None, target: int | None) -> None:
    """Mark the trained window and the target where they lie between the ends of a length axis.

    Their names stand over the axes, clear of all curves, and beside each other where they are near.
    """
    shown = [
        (tokens, text)
        for tokens, text in ((window, "trained window"), (target, "target"))
        if tokens and ends[0] <= tokens <= ends[1]
    ]
    if len(shown) == 2 and window == target:
        shown = [(shown[0][0], "trained window, target")]
    near = len(shown) == 2 and _share_of_axis(shown[0][0], shown[1][0], ends) < 0.3
    for at, (tokens, text) in enumerate(shown):
        axis.axvline(tokens, color="#666666", linewidth=1, linestyle="--", zorder=1)
        axis.annotate(
            text, (tokens, 1.01), xycoords=("data", "axes fraction"), fontsize=8, color=LIGHT_TEXT,
            va="bottom", ha=("right", "left")[at] if near else "center",
        )  # fmt: skip


def _share_of_axis(low: int, high: int, ends: tuple[int, int]) -> float:
    return math.log2(high / low) / math.log2(ends[1] / ends[0]) if ends[0] < ends[1] else 1.0


def side_by_side(index: int, count: int, places: Sequence[int]) -> float:
    """Give the factor that the n-th of so many curves is shifted by: bars would cover each other.

    Args:
        places: of a length axis, sorted; half of the smallest step between two is never passed.
    """
    if count < 2 or len(places) < 2:
        return 1.0
    octaves = math.log2(places[-1] / places[0])
    step = min(math.log2(b / a) for a, b in pairwise(places))
    apart = min(0.012 * octaves, 0.5 * step / count)
    return float(2 ** (apart * (index - (count - 1) / 2)))


def short(name: str, most: int = 30) -> str:
    """Shorten a name for a legend: its middle is cut; the end often tells two checkpoints apart."""
    if name.startswith("_"):  # matplotlib's sign for "not in the legend"
        name = "\N{ZERO WIDTH SPACE}" + name
    if len(name) <= most:
        return name
    return f"{name[: most // 3]}…{name[-(most - most // 3 - 1) :]}"


def chart_title(what: str, models: Sequence[str], text: str | None) -> str:
    """Write a chart's title: what it shows, of which models, on which text.

    >>> chart_title("Perplexity by position", ["base", "yarn"], "book.txt")
    'Perplexity by position: base, yarn on book.txt'
    >>> chart_title("Perplexity by position", list("abcdefghi"), None)
    'Perplexity by position: a, b and 7 more'
    """
    some = models if len(models) <= 3 else models[:2]
    named = ", ".join(short(name) for name in some)
    more = f" and {len(models) - 2} more" if len(models) > 3 else ""
    return f"{what}: {named}{more}" + (f" on {text}" if text else "")


def title_figure(figure: "Figure", title: str) -> None:
    """Write a title over all panels, in as many lines as its width needs."""
    width = figure.get_figwidth()
    lines = textwrap.wrap(title, max(20, int(10.5 * width)))
    figure.suptitle("\n".join(lines), fontsize=11, x=0.01, ha="left")
    figure.set_figheight(figure.get_figheight() + 0.2 * len(lines))


def legend_below(figure: "Figure", axis: "Axes") -> None:
    """Put the legend under the axes, where it covers no curve; none for a single one.

    The figure grows by its lines, so that the axes keep their height.
    """
    handles, labels = axis.get_legend_handles_labels()
    if len(handles) < 2:
        return
    width = 0.6 + 0.085 * max(map(len, labels))  # inches of an entry, at 9 points
    columns = min(len(labels), max(1, int(figure.get_figwidth() / width)))
    rows = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * (rows - 1))
    figure.legend(
        handles, labels, loc="outside lower center", ncol=columns, frameon=False, fontsize=9
    )


def line_style(index: int) -> dict[str, Any]:
    """Give colour, marker and line of the n-th model; no two of 40 are the same without colour.

    The marker changes with the colour; from the eleventh on lines are dashed and marks are hollow.
    """
    color, again = COLORS[index % len(COLORS)], index // len(COLORS)
    return {
        "color": color,
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 5,
        "markerfacecolor": "none" if again else color,
        "linewidth": 1.8,
        "linestyle": LINES[again % len(LINES)],
    }


def error_bars(axis: Any, bars: Sequence[tuple[float, float, float]], color: str) -> None:
    """Draw bars, each as (place, low, high)."""
    at, low, high = zip(*bars, strict=True) if bars else ((), (), ())
    axis.vlines(at, low, high, color=color, linewidth=1)


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
