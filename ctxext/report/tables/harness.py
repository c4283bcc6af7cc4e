"""Scores of lm-evaluation-harness: of one checkpoint, and of several side by side."""

from collections.abc import Sequence

from ctxext.lengths import show_length
from ctxext.report.findings.differences import by_value, differences
from ctxext.report.findings.groups import HarnessGroup, ModelScore
from ctxext.report.tables.perplexity import noise
from ctxext.report.tables.pivot import Across, Down, Table, pivot
from ctxext.report.tables.text import shown
from ctxext.runs.rows.harness import HarnessRow
from ctxext.runs.rows.row import Word


def harness_table(rows: Sequence[HarnessRow]) -> Table:
    """Show columns and rows as lm-evaluation-harness prints them."""
    return (
        ["task", "version", "filter", "n-shot", "metric", "value", "stderr", "documents"],
        [
            [
                row.task,
                _word(row.version),
                _word(row.filter),
                _word(row.n_shot),
                _metric(row.metric),
                shown(row.value, ".4f" if abs(row.value or 0) < 1e6 else ".4g"),
                "" if row.stderr is None else f"± {row.stderr:.4f}",
                _word(row.samples),
            ]
            for row in rows
        ],
    )


def _metric(name: str) -> str:
    """Write the metric of a length as what it is: RULER calls it by the length alone.

    >>> _metric("4096"), _metric("acc")
    ('score at 4k', 'acc')
    """
    return f"score at {show_length(int(name))}" if name.isdecimal() else name


def _word(value: Word) -> str:
    return "" if value is None else str(value)


def harness_comparison(group: HarnessGroup) -> Table:
    """Show one line for each task and metric, one column for each model."""
    marks = {(d.place, d.model): noise(d.apart) for d in differences(group.scores, by_value)}

    def cell(score: ModelScore) -> str:
        stderr = score.row.stderr
        error = "" if stderr is None else f" ± {stderr:.4f}"
        return shown(score.row.value, ".4f") + error + marks.get((score.place, score.model), "")

    down = Down(lambda score: score.place, ["task", "metric", "shots"], name=_line)
    across = Across(lambda score: score.model, group.models, str)
    return pivot(group.scores, down=down, across=across, cell=cell)


def _line(place: tuple[Word, ...]) -> list[str]:
    task, name, filtered, shots = place
    metric = _metric(str(name))
    return [
        str(task),
        metric if filtered in (None, "none") else f"{metric} ({filtered})",
        "–" if shots is None else str(shots),
    ]
