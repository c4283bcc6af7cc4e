"""The wavelengths of rotary pairs against the window."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ctxext.lengths import show_length
from ctxext.report.charts.style import (
    LIGHT_TEXT,
    legend_below,
    line_style,
    new_figure,
    plain_text,
    save_figure,
    short,
    title_figure,
)


def plot_wavelengths(
    path: Path,
    curves: Mapping[str, Sequence[float]],
    *,
    model: str,
    original: int,
    target: int | None,
) -> None:
    """Draw the tokens that each rotary pair needs for a turn, against the window.

    Args:
        curves: name -> wavelengths in tokens, one for each pair.
        model: whose, for the title.
        original, target: windows in tokens, drawn as lines.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axis,) = new_figure(1)
    for index, (name, values) in enumerate(curves.items()):
        axis.plot(range(len(values)), values, label=name, **line_style(index))
    axis.set_yscale("log", base=2)
    for tokens, text in ((original, "trained window"), (target, "target")):
        if tokens:
            axis.axhline(tokens, color="#666666", linewidth=1, linestyle="--", zorder=1)
            # Right of the axes: curves cross a window anywhere.
            axis.annotate(
                f"{text}\n{show_length(tokens)}", (1.01, tokens), fontsize=8, color=LIGHT_TEXT,
                xycoords=("axes fraction", "data"), va="center",
            )  # fmt: skip
    axis.yaxis.set_major_formatter(lambda value, _: show_length(round(value)))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylabel("tokens for one full turn (log scale)")
    axis.set_xlabel("rotary pair, fastest first")
    to = f", from {show_length(original)} to {show_length(target)} tokens" if target else ""
    with plain_text():
        title_figure(figure, f"Wavelengths of the rotary pairs: {short(model)}{to}")
        legend_below(figure, axis)
        save_figure(figure, path)
