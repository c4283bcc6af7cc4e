"""The loss of a training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.report.charts.style import (
    LIGHT_TEXT,
    NEUTRAL,
    PALE_NEUTRAL,
    legend_below,
    new_figure,
    plain_text,
    save_figure,
    title_figure,
)
from ctxext.runs.rows.training import StepRow, recent_loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_loss(path: Path, lines: Sequence[StepRow], title: str = "") -> None:
    """Draw the loss of each optimizer step of a run, and its mean over a twentieth of the steps.

    Args:
        path: .png or .svg.
        lines: of `log.jsonl`.
        title: which model was trained, and on what.
    """
    figure, (axis,) = new_figure(1, width=7.0)
    draw_loss(axis, lines)
    with plain_text():
        if title:
            title_figure(figure, title)
        legend_below(figure, axis)
        save_figure(figure, path)


def draw_loss(axis: "Axes", lines: Sequence[StepRow]) -> None:
    """Draw the curves of `plot_loss`."""
    from matplotlib.ticker import MaxNLocator

    known = [(line, line.loss) for line in lines if line.loss is not None]
    kept = [(line.step, loss) for line, loss in known if line.skipped is None]
    steps, losses = [step for step, _ in kept], [loss for _, loss in kept]
    span = len(kept) // 20
    axis.plot(
        steps, losses, color=PALE_NEUTRAL if span > 1 else NEUTRAL, linewidth=1,
        marker="o", markersize=3 if len(kept) < 60 else 0, label="each step",
    )  # fmt: skip
    if span > 1:
        means = [
            sum(recent) / len(recent)
            for recent in (losses[max(0, end - span) : end] for end in range(1, len(losses) + 1))
        ]
        axis.plot(steps, means, color=LIGHT_TEXT, linewidth=2, label=f"mean of {span} steps")
    left_out = [(line.step, loss) for line, loss in known if line.skipped is not None]
    if left_out:
        top = max(losses, default=0.0)  # a spike would flatten all the rest
        axis.plot(
            [step for step, _ in left_out], [min(loss, top) for _, loss in left_out],
            linestyle="none", marker="X", color=LIGHT_TEXT, label="left out",
        )  # fmt: skip
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("optimizer step")
    axis.set_ylabel("loss, nats per token")
    losses_there = [(line.step, line.validation.loss) for line in lines if line.validation]
    measured = [(step, loss) for step, loss in losses_there if loss is not None]
    if measured:
        axis.plot(
            [step for step, _ in measured], [loss for _, loss in measured],
            color=LIGHT_TEXT, linewidth=1.5, linestyle="--", marker="D", markersize=6,
            label="validation",
        )  # fmt: skip
    if losses:
        recent = recent_loss(lines)
        title = f"step {steps[-1]}: loss {recent.mean:.3f}, mean of {recent.steps} steps"
        if measured:
            title = f"step {measured[-1][0]}: validation loss {measured[-1][1]:.3f}"
        axis.set_title(title, loc="left", fontsize=10)
