"""What was changed in the config, and what was trained."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.report.charts import Chart
from ctxext.report.compare import number
from ctxext.report.comparison_tables import config_table
from ctxext.report.findings import Row, Run
from ctxext.report.html import Html, data_table, details, figure, section, tag
from ctxext.report.plots import draw_loss
from ctxext.report.sections.common import one_chart
from ctxext.report.tables import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 400  # of a training curve


def config_section(configs: Sequence[tuple[str, Row]]) -> Html:
    """What `extend` changed."""
    if not configs:
        return Html("")
    tables = [data_table(name, config_table(diff), words=True) for name, diff in configs]
    return section("config", "What changed in the config", *tables)


def training_section(runs: Sequence[Run]) -> Html:
    """Loss of each step, and the run's own summary."""
    if not runs:
        return Html("")
    charts, parts = [], []
    for at, run in enumerate(runs):
        lines = thinned(run.log)
        losses = [row["loss"] for row in lines if number(row.get("loss")) is not None]
        if losses:
            words = (
                f"Loss by optimizer step: {losses[0]:.3f} at first, {losses[-1]:.3f} at the end, "
                f"{lines[-1]['step']} steps."
            )

            def draw(lines: Sequence[Row] = lines) -> "Figure":
                return one_chart(lambda axis: draw_loss(axis, lines))

            charts.append(figure(Chart(f"Training of {run.name}", words, draw), f"loss{at}"))
        parts.append(data_table(f"{run.name}: every so many steps", _log_table(run.log)))
    return section(
        "training", "Training", tag("div", *charts, class_="charts"), details("Numbers", *parts)
    )


def thinned(log: Sequence[Row]) -> Sequence[Row]:
    """At most `_POINTS` lines: of each stretch its mean loss, left-out steps left out."""
    lines = [
        {**line, "loss": number(line.get("loss"))}
        for line in log
        if number(line.get("step")) is not None
    ]
    if len(lines) <= _POINTS:
        return lines
    kept = [line for line in lines if line["loss"] is not None and "skipped" not in line]
    size = -(-len(kept) // _POINTS)
    return [
        {
            "step": kept[min(at + size, len(kept)) - 1]["step"],
            "loss": sum(line["loss"] for line in kept[at : at + size]) / len(kept[at : at + size]),
        }
        for at in range(0, len(kept), size)
    ]


def _log_table(log: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    lines = [line for line in log if number(line.get("step")) is not None]
    step = max(1, len(lines) // 12)
    chosen = [*lines[:-1:step], lines[-1]] if lines else []
    forms = (
        ("loss", ".4f"), ("grad_norm", ".3f"), ("lr", ".2e"), ("tokens", ",.0f"),
        ("tokens_per_second", ",.0f"),
    )  # fmt: skip
    return (
        ["step", *(key.replace("_", " ") for key, _ in forms)],
        [[str(line["step"]), *(shown(line.get(k), form) for k, form in forms)] for line in chosen],
    )
