"""Curves of what was measured, as PNG or SVG files."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxext.lengths import show_length
from ctxext.report.style import length_axis, line_style, mark_window, new_figure, save_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
_MOST_NATS = 500  # of an axis; the ticks of a longer one are beyond what a float can hold


def plot_perplexity(path: Path, results: Rows, by_position: Rows, *, window: int | None) -> None:
    """Perplexity by length and by position, one curve for each model.

    Args:
        path: .png or .svg.
        results: rows with `model`, `length`, `perplexity`, as in the eval-ppl document.
        by_position: rows with `model`, `start`, `end`, `perplexity`.
        window: the first model's trained window, marked; tokens.
    """
    several = len({row["length"] for row in results}) > 1
    figure, axes = new_figure(2 if several and by_position else 1)
    if several:
        draw_lengths(axes[0], results, window=window)
    if by_position:
        draw_positions(axes[-1], by_position, window=window)
    axes[0].legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def plot_demo(path: Path, by_position: Rows, copying: Rows, *, original: int, target: int) -> None:
    """The demo's two pictures: perplexity by position, and copying by distance."""
    figure, (left, right) = new_figure(2, width=5.4)
    draw_positions(left, by_position, window=original)
    figure.legend(loc="outside lower center", ncol=6, frameon=False, fontsize=9)
    distances = sorted({row["distance"] for row in copying})
    for index, model in enumerate(models_of(by_position)):
        rows = [r for r in copying if r["model"] == model]
        right.plot(
            [r["distance"] for r in rows],
            [100 * r["accuracy"] for r in rows],
            label=model,
            **line_style(index),
        )
    length_axis(right, distances, f"how far back the string stands, tokens (rows of {target})")
    mark_window(right, original, "trained window")
    right.set_ylim(-3, 103)
    right.set_ylabel("tokens copied rightly, %")
    right.set_title("Is far text used?", loc="left", fontsize=11)
    left.set_title("Is far text survived?", loc="left", fontsize=11)
    save_figure(figure, path)


def plot_wavelengths(
    path: Path, curves: Mapping[str, Sequence[float]], *, original: int, target: int | None
) -> None:
    """Tokens that each rotary pair needs for a turn, against the window.

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


def plot_loss(path: Path, lines: Rows) -> None:
    """The loss of each optimizer step of a run, and its mean over a twentieth of the steps so far.

    Args:
        path: .png or .svg.
        lines: rows of `log.jsonl`: `step`, `loss` (None = not finite), `skipped` where the step
            was left out.
    """
    figure, (axis,) = new_figure(1, width=7.0)
    draw_loss(axis, lines)
    axis.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def draw_loss(axis: "Axes", lines: Rows) -> None:
    """The curves of `plot_loss`."""
    from matplotlib.ticker import MaxNLocator

    known = [line for line in lines if line.get("loss") is not None]
    kept = [line for line in known if "skipped" not in line]
    steps, losses = [line["step"] for line in kept], [line["loss"] for line in kept]
    span = len(kept) // 20
    axis.plot(
        steps, losses, color="#56B4E9", linewidth=1, alpha=0.7 if span > 1 else 1.0,
        marker="o", markersize=3 if len(kept) < 60 else 0, label="each step",
    )  # fmt: skip
    if span > 1:
        means = [
            sum(part) / len(part)
            for part in (losses[max(0, end - span) : end] for end in range(1, len(losses) + 1))
        ]
        axis.plot(steps, means, color="#0072B2", linewidth=2, label=f"mean of {span} steps")
    left_out = [line for line in known if "skipped" in line]
    if left_out:
        top = max(losses, default=0.0)  # a spike would flatten all the rest
        axis.plot(
            [line["step"] for line in left_out], [min(line["loss"], top) for line in left_out],
            linestyle="none", marker="X", color="#D55E00", label="left out",
        )  # fmt: skip
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("loss, nats per token")
    if losses:
        axis.set_title(f"step {steps[-1]}: loss {losses[-1]:.3f}", loc="left", fontsize=11)


def draw_lengths(
    axis: "Axes", rows: Rows, *, window: int | None, target: int | None = None, above: bool = False
) -> None:
    """Perplexity by window length, one curve for each model; windows are marked.

    Args:
        rows: with `model`, `length`, `perplexity`, `stderr`.
        window, target: trained and extended to, tokens.
        above: their names stand over the axes.
    """
    lengths = sorted({row["length"] for row in rows})
    for index, model in enumerate(models_of(rows)):
        own = sorted(_of_model(rows, model), key=lambda r: int(r["length"]))
        axis.plot(
            [r["length"] for r in own],
            [r["perplexity"] for r in own],
            label=short(model),
            gid=f"length-{index}",
            **line_style(index),
        )
        _errors(axis, "length", own, index)
    length_axis(axis, lengths, "window length, tokens")
    _perplexity_axis(axis, window, lengths, target, above)


def draw_positions(
    axis: "Axes", rows: Rows, *, window: int | None, target: int | None = None, above: bool = False
) -> None:
    """Perplexity by position: each bucket at its end, where its last token stands."""
    ends = sorted({row["end"] for row in rows})
    for index, model in enumerate(models_of(rows)):
        own = _of_model(rows, model)
        axis.plot(
            [r["end"] for r in own],
            [r["perplexity"] for r in own],
            label=short(model),
            gid=f"position-{index}",
            **line_style(index),
        )
        _errors(axis, "end", own, index)
    length_axis(axis, ends, "position in the window, tokens (up to)")
    _perplexity_axis(axis, window, ends, target, above)


def _of_model(rows: Rows, model: str) -> list[Mapping[str, Any]]:
    """The rows of a model that have a point; where it exploded there is none."""
    return [
        row
        for row in rows
        if row["model"] == model
        and row["perplexity"] is not None
        and row["perplexity"] < math.exp(_MOST_NATS)
    ]


def _errors(axis: "Axes", key: str, rows: Rows, index: int) -> None:
    """A bar of 1.96 standard errors of the NLL to both sides, carried over to the perplexity."""
    bars = []
    for row in rows:
        if row.get("stderr") is not None:
            middle, spread = math.log(row["perplexity"]), 1.96 * row["stderr"]
            # Bars of a model that explodes end where the axis does.
            low, high = max(middle - spread, -_MOST_NATS), min(middle + spread, _MOST_NATS)
            bars.append((row[key], math.exp(low), math.exp(high)))
    axis.vlines(
        [at for at, _, _ in bars],
        [low for _, low, _ in bars],
        [high for _, _, high in bars],
        color=line_style(index)["color"],
        linewidth=1,
    )


def _perplexity_axis(
    axis: "Axes", window: int | None, lengths: Sequence[int], target: int | None, above: bool
) -> None:
    axis.set_yscale("log")
    if not math.isfinite(axis.dataLim.minposy):
        axis.set_ylim(1, 10)  # every model exploded: a logarithmic axis wants some number
    axis.set_ylabel("perplexity (log scale)")
    axis.yaxis.set_major_formatter(_plain_number)
    axis.yaxis.set_minor_formatter(_plain_number)
    axis.tick_params(axis="y", which="minor", labelsize=8, labelcolor="#666666")
    if window and lengths[0] <= window <= lengths[-1]:
        mark_window(axis, window, "trained window", above=above)
    if target and target != window and lengths[0] <= target <= lengths[-1]:
        mark_window(axis, target, "target", above=above)


def _plain_number(value: float, position: float) -> str:
    """Ticks as 3 and 40, and only where the first digit is 1, 2, 3 or 5, so they do not crowd."""
    first = f"{value:e}"[0]
    return f"{value:g}" if first in "1235" else ""


def models_of(rows: Rows) -> list[str]:
    """The models of rows, in order of appearance."""
    return list(dict.fromkeys(str(row["model"]) for row in rows))
