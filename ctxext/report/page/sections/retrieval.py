"""Retrieval: effective length, curves, heat maps, the middle; and the demo's copying."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.charts.retrieval import (
    Line,
    Share,
    chance_line,
    draw_accuracy,
    draw_heat,
    shares_of,
)
from ctxext.report.charts.style import chart_title
from ctxext.report.charts.svg import Chart
from ctxext.report.findings.differences import by_accuracy, differences
from ctxext.report.findings.groups import CopyingGroup, RetrievalGroup, Score
from ctxext.report.findings.verdict import COPIED
from ctxext.report.page.html import Html, data_table, details, figure, join, section, tag
from ctxext.report.page.sections.common import one_chart
from ctxext.report.tables.retrieval import (
    accuracy_difference_table,
    accuracy_table,
    cells_table,
    choice_is_told,
    choice_table,
    copying_table,
    effective_table,
    middle_table,
    models_and_tasks,
    share_note,
    unsolved_note,
)
from ctxext.report.tables.text import percent
from ctxext.runs.rows.retrieval import CellRow, MiddleRow
from ctxext.runs.rows.row import models_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEAT_CELLS = 2000  # more would pass 3 MB; the tables of the others stay


def retrieval_section(groups: Sequence[RetrievalGroup], order: Sequence[str]) -> Html:
    """Show effective length, accuracy by length, heat maps, and the middle.

    Args:
        order: all models of the page; a model's place gives its look.
    """
    if not groups:
        return Html("")
    parts: list[str] = []
    for at, group in enumerate(groups):
        parts.append(tag("h3", group.about))
        parts += [_callout(row) for row in group.middle if row.lost]
        if group.unsolved:
            parts.append(_unsolved(group))
        if group.effective:
            parts.append(data_table("Effective length", effective_table(group)))
        parts.append(tag("div", *_charts(group, at, order), class_="charts"))
        parts.append(details("Numbers, and which differences exceed noise", *_tables(group)))
        parts.append(_heat_maps(group, at, _HEAT_CELLS // len(groups)))
    return section("retrieval", "Retrieval: is far text used?", *parts)


def _charts(group: RetrievalGroup, at: int, order: Sequence[str]) -> list[Html]:
    """Draw the curves of each task, exact answers and then choices."""
    charts = []
    unanswered = group.unanswered  # exact answers of these are empty pictures; choices may say more
    for index, task in enumerate(group.tasks):
        if task in unanswered:
            continue
        asked = {row.threshold for row in group.effective if row.task == task}
        threshold = asked.pop() if len(asked) == 1 else None  # relative ones differ by model
        line = Line(threshold, "threshold") if threshold is not None else None
        scores = [score for score in group.by_length if score.task == task]
        title = f"Right answers, {task}"
        charts.append(_accuracy_chart(group, scores, title, f"ret{at}-{index}", line, order))
    choices = group.by_choice
    for index, task in enumerate(dict.fromkeys(score.task for score in choices)):
        scores = [score for score in choices if score.task == task]
        title, line = f"Forced choice, {task}", chance_line(scores)
        charts.append(_accuracy_chart(group, scores, title, f"choice{at}-{index}", line, order))
    return charts


def _tables(group: RetrievalGroup) -> list[Html]:
    tables = [data_table("Accuracy by length, Wilson's 95 % interval", accuracy_table(group))]
    if group.by_choice and not choice_is_told(group):
        note = "the right answer against distractors, with Wilson's interval; gain in nats a token"
        caption = "Forced choice, and what the needle is worth"
        tables.append(data_table(caption, choice_table(group), note=note))
    answered = [score for score in group.by_length if score.task not in group.unanswered]
    if compared := differences(answered, by_accuracy):
        table = accuracy_difference_table(compared)
        tables.append(data_table("Difference of accuracy", table, note=share_note(compared)))
    if middle := [row for row in group.middle if row.task not in group.unanswered]:
        tables.append(data_table("The middle against both ends", middle_table(middle)))
    return tables


def _unsolved(group: RetrievalGroup) -> Html:
    callout = tag("p", unsolved_note(group), class_="callout")
    if not choice_is_told(group):
        return callout
    table, note = choice_table(group), "[low, high]: Wilson's 95 %"
    return join([callout, data_table("Forced choice", table, note=note, stacked=True)])


def _callout(row: MiddleRow) -> Html:
    return tag(
        "p",
        f"Lost in the middle: {row.model} at {show_length(row.length)} answers "
        f"{row.task} rightly in {percent(row.middle)} of cases in the middle of the "
        f"text, and in {percent(row.ends)} at its ends.",
        class_="callout",
    )


def _accuracy_chart(
    group: RetrievalGroup,
    scores: Sequence[Score],
    what: str,
    identity: str,
    line: Line | None,
    order: Sequence[str],
) -> Html:
    shares = shares_of(scores)
    if not shares:
        return Html("")

    def draw() -> "Figure":
        return one_chart(
            lambda axis: draw_accuracy(
                axis, shares, label="length, tokens", window=group.window, target=group.target,
                line=line, order=order,
            )
        )  # fmt: skip

    title = chart_title(what, models_of(shares), group.text)
    return figure(Chart(title, _words(shares), draw, _tips(shares)), identity)


def _curves(shares: Sequence[Share]) -> list[tuple[str, list[Share]]]:
    """Sort the shares of each model by length."""
    return [
        (model, sorted((s for s in shares if s.model == model), key=lambda share: share.at))
        for model in models_of(shares)
    ]


def _words(shares: Sequence[Share]) -> str:
    """Write the numbers of an accuracy chart, for who does not see it."""
    said = [
        f"{model}: "
        + ", ".join(f"{100 * s.accuracy:.0f} % at {show_length(s.at)}" for s in curve)
        + "."
        for model, curve in _curves(shares)
    ]
    return f"One curve a model. {' '.join(said)}"


def _tips(shares: Sequence[Share]) -> dict[str, list[str]]:
    return {
        f"accuracy-{index}": [
            f"{model}, {show_length(share.at)}: {100 * share.accuracy:.0f} %" for share in curve
        ]
        for index, (model, curve) in enumerate(_curves(shares))
    }


def _heat_maps(group: RetrievalGroup, at: int, most: int) -> Html:
    pairs = [pair for pair in models_and_tasks(group.results) if pair[1] not in group.unanswered]
    charts, tables, drawn = [], [], 0
    for index, (model, task) in enumerate(pairs):
        rows = [row for row in group.results if row.model == model and row.task == task]
        drawn += len(rows)
        if drawn <= most:
            charts.append(_heat_map(group, rows, f"heat{at}-{index}"))
        tables.append(data_table(f"{task}: {model}", cells_table(rows)))
    if not pairs:
        return Html("")
    parts: list[str] = [tag("h3", "By length and depth, % right")]
    if len(charts) < len(pairs):
        parts.append(tag("p", f"{len(pairs) - len(charts)} more are in the tables below only."))
    parts.append(tag("div", *charts, class_="charts"))
    parts.append(details("Every cell with its interval", *tables))
    return join(parts)


def _heat_map(group: RetrievalGroup, rows: Sequence[CellRow], identity: str) -> Html:
    lengths = sorted({row.length for row in rows})
    depths = sorted({row.depth for row in rows})

    def draw() -> "Figure":
        height = 1.2 + 0.3 * len(depths)
        return one_chart(lambda axis: draw_heat(axis, rows, window=group.window), height=height)

    known = [(row, row.accuracy) for row in rows if row.accuracy is not None]
    tips = {
        f"cell-{lengths.index(row.length)}-{depths.index(row.depth)}": [
            f"{show_length(row.length)}, depth {100 * row.depth:.0f} %: {100 * accuracy:.0f} %"
        ]
        for row, accuracy in known
    }
    shares = [accuracy for _, accuracy in known]
    words = (
        f"Heat map of {len(lengths)} lengths by {len(depths)} depths; cells from "
        f"{100 * min(shares):.0f} to {100 * max(shares):.0f} % right, all of them in the table "
        "below."
        if shares
        else "Heat map without a measured cell."
    )
    title = chart_title(f"% right, {rows[0].task}", [rows[0].model], group.text)
    return figure(Chart(title, words, draw, tips), identity)


def copying_section(groups: Sequence[CopyingGroup], order: Sequence[str]) -> Html:
    """Show the demo's planted strings."""
    parts: list[str] = []
    for at, group in enumerate(groups):
        shares = [
            Share(row.model, row.distance, row.accuracy)
            for row in group.results
            if row.accuracy is not None
        ]

        def draw(group: CopyingGroup = group, shares: list[Share] = shares) -> "Figure":
            return one_chart(
                lambda axis: draw_accuracy(
                    axis, shares, label="how far back it stands, tokens", window=group.window,
                    line=Line(COPIED, "threshold"), order=order,
                )
            )  # fmt: skip

        parts.append(tag("h3", f"A planted string, {group.about}"))
        if shares:
            title = chart_title("Tokens copied rightly", models_of(shares), "held-out text")
            chart = figure(Chart(title, _words(shares), draw, _tips(shares)), f"copy{at}")
            parts.append(tag("div", chart, class_="charts"))
        parts.append(details("Numbers", data_table("Copied", copying_table(group.results))))
    return section("copying", "Copying from far back", *parts) if parts else Html("")
