"""Retrieval: accuracy by length, forced choice, how far it holds, the middle; and copying."""

from collections.abc import Callable, Sequence

from ctxext.lengths import show_length
from ctxext.report.findings.differences import Difference
from ctxext.report.findings.groups import RetrievalGroup, Score
from ctxext.report.findings.verdict import reach_words
from ctxext.report.tables.perplexity import marks, marks_told
from ctxext.report.tables.pivot import LENGTHS, MODELS, Across, Down, Table, pivot
from ctxext.report.tables.text import percent, shown
from ctxext.runs.rows.demo import CopyRow
from ctxext.runs.rows.retrieval import CellRow, EffectiveRow, MiddleRow
from ctxext.runs.rows.row import Word


def accuracy_table(group: RetrievalGroup) -> Table:
    """Show one line for each task and model, one column for each length."""
    pairs = [(task, model) for task in group.tasks for model in group.models]
    return _by_task(group.by_length, _accuracy, lines=pairs)


def choice_table(group: RetrievalGroup) -> Table:
    """Show forced choice as in `accuracy_table`, and the gain in nats per token."""
    scores = group.by_choice
    asked = {(score.task, score.model) for score in scores}
    pairs = [(task, model) for task in group.tasks for model in group.models]
    return _by_task(scores, _choice, lines=[pair for pair in pairs if pair in asked])


def _choice(score: Score) -> str:
    chance = "" if score.chance is None else f", chance {100 * score.chance:.0f} %"
    return f"{_accuracy(score)}{chance}, {shown(score.gain, '+.2f')}"


def _by_task(
    scores: Sequence[Score],
    cell: Callable[[Score], str],
    lines: Sequence[tuple[str, str]] | None = None,
) -> Table:
    down = Down(lambda score: (score.task, score.model), ["task", "model"], lines)
    return pivot(scores, down=down, across=LENGTHS, cell=cell)


def _accuracy(row: Score | CellRow) -> str:
    if row.accuracy is None:
        return "–"
    known = row.low is not None and row.high is not None
    interval = f" [{100 * row.low:.0f}, {100 * row.high:.0f}]" if known else ""  # type: ignore[operator]
    return f"{100 * row.accuracy:.0f} %{interval}"


def accuracy_difference_table(differences: Sequence[Difference]) -> Table:
    """Show one line for each task and model but the first, a column for each length."""
    against = differences[0].against if differences else ""
    down = Down(lambda d: (d.place[0], d.model), ["task", f"model, minus {against}"])
    return pivot(differences, down=down, across=Across(lambda d: d.place[1]), cell=_share_cell)


def _share_cell(difference: Difference) -> str:
    apart = difference.apart
    if apart.low is None or apart.high is None:
        return _points(apart.difference)
    interval = f"[{_points(apart.low)}, {_points(apart.high)}]"
    return f"{_points(apart.difference)} {interval}{marks(apart)}"


def _points(share: float) -> str:
    """Write percentage points with their sign: `+0` for what rounds to nothing."""
    return f"{round(100 * share):+d}"


def choice_is_told(group: RetrievalGroup) -> bool:
    """Tell whether forced choice was asked in a task that no model solves."""
    return any(score.task in group.unsolved for score in group.by_choice)


def unsolved_note(group: RetrievalGroup) -> str:
    """Say what follows where no model solves a task; nothing where each is solved by one."""
    if not group.unsolved:
        return ""
    text = f"No model here solves {', '.join(group.unsolved)} at any length"
    if choice_is_told(group):
        return (
            f"{text}: the right answer among distractors, against chance, and what the needle is "
            "worth in nats a token, is what can be told."
        )
    return f"{text}, so that nothing follows from it."


def share_note(differences: Sequence[Difference]) -> str:
    """Say how to read `accuracy_difference_table`, and only those words that stand in it."""
    against = differences[0].against if differences else ""
    return "; ".join(
        [
            f"percentage points, above 0 where the model answers better than {against}",
            "[low, high] is Newcombe's 95 % interval, question by question",
            *marks_told(
                differences,
                noise="no more than chance, by McNemar's exact test",
                unpaired="from the two Wilson intervals, where questions differed",
            ),
        ]
    )


def effective_table(group: RetrievalGroup) -> Table:
    """Show one line for each model, one column for each task."""
    above = threshold_words(group.threshold)
    head = f"effective length ({above})" if above else "effective length"
    return pivot(
        group.effective, down=Down(lambda row: row.model, [head], group.models),
        across=Across(lambda row: row.task, group.tasks, str), cell=_effective,
    )  # fmt: skip


def _effective(row: EffectiveRow) -> str:
    words = reach_words(row.effective_length, row.perhaps_length)
    return words + (" by choice" if row.metric == "choice" and words != "nowhere" else "")


def threshold_words(threshold: Word) -> str:
    """Write `at least 85.6 %`, or `at least 85 % of its own in its window`; nothing where unknown.

    >>> threshold_words("0.856"), threshold_words("own:0.85")
    ('at least 85.6 %', 'at least 85 % of its own in its window')
    """
    text = str(threshold)
    relative = text.startswith("own:")
    try:
        share = 100 * float(text.removeprefix("own:"))
    except ValueError:
        return ""
    return f"at least {share:g} %" + (" of its own in its window" if relative else "")


def middle_table(rows: Sequence[MiddleRow]) -> Table:
    """Show one line for each model, task and length."""
    return (
        ["model", "task", "length", "middle", "ends", "middle minus ends", "lost in the middle"],
        [
            [
                row.model,
                row.task,
                show_length(row.length),
                percent(row.middle),
                percent(row.ends),
                f"{percent(row.difference, '+.0f')} [{percent(row.low, '+.0f')}, "
                f"{percent(row.high, '+.0f')}]",
                "yes" if row.lost else "no",
            ]
            for row in rows
        ],
    )


def cells_table(rows: Sequence[CellRow]) -> Table:
    """Show one model's cells at one task: one line for each depth, one column for each length."""
    depths = sorted({row.depth for row in rows})
    down = Down(lambda row: row.depth, ["depth"], depths, lambda depth: [f"{100 * depth:.0f} %"])
    return pivot(rows, down=down, across=LENGTHS, cell=_cell)


def _cell(row: CellRow) -> str:
    parts = [_accuracy(row)]
    parts += [f"choice {100 * row.choice:.0f} %"] if row.choice is not None else []
    parts += [f"gain {row.gain:+.2f}"] if row.gain is not None else []
    return ", ".join(parts)


def copying_table(rows: Sequence[CopyRow]) -> Table:
    """Show one line for each model, one column for each distance, in percent."""
    across = Across(lambda row: row.distance, head=lambda tokens: f"{tokens} back")
    return pivot(
        rows, down=MODELS, across=across, cell=lambda row: percent(row.accuracy), missing=""
    )


def models_and_tasks(rows: Sequence[CellRow]) -> list[tuple[str, str]]:
    """List each model with each task that it has rows for, task by task."""
    pairs = list(dict.fromkeys((row.model, row.task) for row in rows))
    tasks = list(dict.fromkeys(task for _, task in pairs))
    return sorted(pairs, key=lambda pair: tasks.index(pair[1]))
