"""Retrieval over length and depth: one small map for each model and task, as a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctxext.report.heat import draw_heat
from ctxext.report.style import new_figure, plain_text, save_figure, short

Rows = Sequence[Mapping[str, Any]]


def plot_retrieval(path: Path, results: Rows, *, window: int) -> None:
    """Right answers by length (across) and depth (down): tasks are rows, models columns.

    Args:
        path: .png or .svg.
        results: rows with `model`, `task`, `length`, `depth`, `accuracy`.
        window: the first model's trained window, marked; tokens.
    """
    models = list(dict.fromkeys(row["model"] for row in results))
    tasks = list(dict.fromkeys(row["task"] for row in results))
    with plain_text():
        figure, axes = new_figure(len(models), rows=len(tasks), width=3.6, height=2.7)
        for index, axis in enumerate(axes):
            task, model = tasks[index // len(models)], models[index % len(models)]
            rows = [row for row in results if (row["model"], row["task"]) == (model, task)]
            if rows:
                draw_heat(axis, rows, window=window)
            axis.set_title(f"{short(model)}: {task}, % right\n", loc="left", fontsize=10)
        save_figure(figure, path)
