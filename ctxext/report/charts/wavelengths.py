"""The wavelengths of rotary pairs against the window."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ctxext.lengths import show_length
from ctxext.report.charts.style import line_style, new_figure, save_figure


def plot_wavelengths(
    path: Path, curves: Mapping[str, Sequence[float]], *, original: int, target: int | None
) -> None:
    """Draw the tokens that each rotary pair needs for a turn, against the window.

    Args:
        curves: name -> wavelengths in tokens, one for each pair.
        original, target: windows in tokens, drawn as lines.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axis,) = new_figure(1)
    for index, (name, values) in enumerate(curves.items()):
        axis.plot(range(len(values)), values, label=name, **line_style(index))
    for tokens, text in ((original, "trained window"), (target, "target")):
        if tokens:
            axis.axhline(tokens, color="#666666", linewidth=1, linestyle="--", zorder=1)
            axis.annotate(
                f"{text}, {show_length(tokens)}", (0.01, tokens), fontsize=8, color="#555555",
                xycoords=("axes fraction", "data"), va="bottom",
            )  # fmt: skip
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter(lambda value, _: show_length(round(value)))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("tokens for one full turn (log scale)")
    axis.set_xlabel("rotary pair, fastest first")
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    save_figure(figure, path)
