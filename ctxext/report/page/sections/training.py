"""What was changed in the config, and what was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ctxext.report.charts.style import chart_title
from ctxext.report.charts.svg import Chart
from ctxext.report.charts.training import draw_loss
from ctxext.report.findings.groups import Run
from ctxext.report.page.html import Html, data_table, details, figure, section, tag
from ctxext.report.page.sections.common import one_chart
from ctxext.report.tables.training import config_table, log_table
from ctxext.runs.rows.training import StepRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS = 400  # of a training curve


def config_section(configs: Sequence[tuple[str, Mapping[str, Any]]]) -> Html:
    """Show what `extend` changed."""
    if not configs:
        return Html("")
    tables = [
        data_table(name, config_table(diff), words=True, stacked=True) for name, diff in configs
    ]
    return section("config", "What changed in the config", *tables)


def training_section(runs: Sequence[Run]) -> Html:
    """Show the loss of each step, and the lines of the log."""
    if not runs:
        return Html("")
    charts, tables = [], []
    for at, run in enumerate(runs):
        lines = thinned(run.log)
        losses = [line.loss for line in lines if line.loss is not None]
        if losses:
            words = (
                f"Loss by optimizer step: {losses[0]:.3f} at first, {losses[-1]:.3f} at the end, "
                f"{lines[-1].step} steps."
            )

            source = run.record.training.data.source if run.record.training else ""
            title = chart_title("Training", [run.name], source)

            def draw(lines: Sequence[StepRow] = lines) -> "Figure":
                return one_chart(lambda axis: draw_loss(axis, lines))

            charts.append(figure(Chart(title, words, draw), f"loss{at}"))
        tables.append(data_table(f"{run.name}: every so many steps", log_table(run.log)))
    return section(
        "training", "Training", tag("div", *charts, class_="charts"), details("Numbers", *tables)
    )


def thinned(log: Sequence[StepRow]) -> Sequence[StepRow]:
    """Keep at most `_POINTS` lines: of each stretch its mean loss, left-out steps left out."""
    if len(log) <= _POINTS:
        return log
    kept = [(line, line.loss) for line in log if line.loss is not None and line.skipped is None]
    size = -(-len(kept) // _POINTS)
    stretches = [kept[at : at + size] for at in range(0, len(kept), size)]
    return [
        replace(stretch[-1][0], loss=sum(loss for _, loss in stretch) / len(stretch))
        for stretch in stretches
    ]
