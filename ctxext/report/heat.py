"""Retrieval as a heat map: accuracy by length and depth, the number in every cell."""

from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.compare import number
from ctxext.report.plots import Rows
from ctxext.report.style import HEAT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Not pure black and white: those follow the page's theme, and a cell brings its own background.
_DARK, _PALE = "#010101", "#fefefe"


def draw_heat(axis: "Axes", rows: Rows, *, window: int | None) -> None:
    """One model at one task: lengths from left to right, depths from the start of the text down.

    Args:
        rows: with `length`, `depth` (0 = start), `accuracy` (None: not measured).
        window: the trained window, tokens: a line after the last length inside it.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    lengths = sorted({row["length"] for row in rows})
    depths = sorted({row["depth"] for row in rows})
    cells = {(row["length"], row["depth"]): number(row["accuracy"]) for row in rows}
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
        axis.axvline(inside - 0.5, color="#000000", linewidth=2, linestyle="--")
        axis.annotate(
            "trained window", (inside - 0.5, 1.01), xycoords=("data", "axes fraction"), fontsize=8,
            ha="center", va="bottom", color="#555555",
        )  # fmt: skip


def _luminance(color: tuple[float, float, float, float]) -> float:
    """Relative luminance of an sRGB colour, 0..1 (WCAG 2)."""
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
