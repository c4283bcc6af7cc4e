"""Retrieval over length and depth: one small map for each model and task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxext.lengths import show_length
from ctxext.report.style import HEAT, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]
_NUMBERED = 80  # cells up to which each shows its number


def plot_retrieval(path: Path, results: Rows, *, window: int) -> None:
    """Accuracy by length (across) and depth (down): a row for each task, a column for each model.

    Args:
        path: .png or .svg.
        results: rows with `model`, `task`, `length`, `depth`, `accuracy`.
        window: the first model's trained window, marked; tokens.
    """
    models = list(dict.fromkeys(row["model"] for row in results))
    tasks = list(dict.fromkeys(row["task"] for row in results))
    figure, axes = new_figure(len(models), rows=len(tasks), width=3.6, height=2.5, grid=False)
    image = None
    for index, axis in enumerate(axes):
        task, model = tasks[index // len(models)], models[index % len(models)]
        rows = [row for row in results if (row["model"], row["task"]) == (model, task)]
        if rows:
            image = draw_heatmap(axis, rows, window=window)
        axis.set_title(f"{model}: {task}", loc="left", fontsize=10)
    if image is not None:
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.set_label("right answers", fontsize=9)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    save_figure(figure, path)


def draw_heatmap(axis: "Axes", rows: Rows, *, window: int) -> Any:
    """One map; lengths that were not measured are left white."""
    lengths = sorted({row["length"] for row in rows})
    depths = sorted({row["depth"] for row in rows})
    cells = {(row["depth"], row["length"]): row["accuracy"] for row in rows}
    table = [[cells.get((d, n), float("nan")) for n in lengths] for d in depths]
    image = axis.imshow(table, cmap=HEAT, vmin=0, vmax=1, aspect="auto")
    axis.set_xticks(range(len(lengths)), [show_length(n) for n in lengths])
    axis.set_yticks(range(len(depths)), [f"{100 * d:.0f} %" for d in depths])
    axis.set_xlabel("length, tokens", fontsize=9)
    axis.set_ylabel("depth of the needle", fontsize=9)
    axis.tick_params(labelsize=8, length=0)
    if len(lengths) * len(depths) <= _NUMBERED:
        for (depth, length), value in cells.items():
            axis.text(
                lengths.index(length), depths.index(depth), f"{100 * value:.0f}", ha="center",
                va="center", fontsize=8, color="white" if value < 0.55 else "black",
            )  # fmt: skip
    inside = sum(n <= window for n in lengths)
    if 0 < inside < len(lengths):
        axis.axvline(inside - 0.5, color="white", linewidth=3)
        axis.axvline(inside - 0.5, color="black", linewidth=1.2, linestyle="--")
    return image
