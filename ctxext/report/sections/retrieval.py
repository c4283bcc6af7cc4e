"""Retrieval: effective length, curves, heat maps, the middle; and the demo's copying."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.accuracy import draw_accuracy
from ctxext.report.charts import Chart
from ctxext.report.compare import number
from ctxext.report.comparison_tables import (
    SHARE_NOTE,
    accuracy_difference_table,
    accuracy_table,
    cells_table,
    choice_table,
    effective_table,
    middle_table,
    models_and_tasks,
)
from ctxext.report.findings import CopyingGroup, RetrievalGroup, Row
from ctxext.report.heat import draw_heat
from ctxext.report.html import Html, data_table, details, figure, join, section, tag
from ctxext.report.plots import models_of
from ctxext.report.sections.common import one_chart
from ctxext.report.tables import copying_table, percent
from ctxext.report.verdict import COPIED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEAT_CELLS = 2000  # more would pass 3 MB; the tables of the others stay


def retrieval_section(groups: Sequence[RetrievalGroup]) -> Html:
    """Effective length, accuracy by length, heat maps, and the middle."""
    if not groups:
        return Html("")
    parts: list[str] = []
    for at, group in enumerate(groups):
        parts.append(tag("h3", group.about))
        parts += [_callout(row) for row in group.middle if row["lost"]]
        if group.effective:
            parts.append(data_table("Effective length", effective_table(group)))
        charts = [
            _accuracy_chart(group, task, f"ret{at}-{i}") for i, task in enumerate(group.tasks)
        ]
        choices = group.by_choice
        for i, task in enumerate(dict.fromkeys(row["task"] for row in choices)):
            rows = [row for row in choices if row["task"] == task]
            charts.append(_choice_chart(group, rows, f"choice{at}-{i}"))
        parts.append(tag("div", *charts, class_="charts"))
        tables = [data_table("Accuracy by length, Wilson's 95 % interval", accuracy_table(group))]
        if choices:
            note = (
                "the right answer against distractors, with Wilson's interval; gain in nats a token"
            )
            table = choice_table(group)
            tables.append(
                data_table("Forced choice, and what the needle is worth", table, note=note)
            )
        if group.differences:
            tables.append(
                data_table("Difference of accuracy", accuracy_difference_table(group.differences),
                           note=SHARE_NOTE)
            )  # fmt: skip
        if group.middle:
            tables.append(data_table("The middle against both ends", middle_table(group.middle)))
        parts.append(details("Numbers, and which differences exceed noise", *tables))
        parts.append(_heat_maps(group, at, _HEAT_CELLS // len(groups)))
    return section("retrieval", "Retrieval: is far text used?", *parts)


def _callout(row: Row) -> Html:
    return tag(
        "p",
        f"Lost in the middle: {row['model']} at {show_length(row['length'])} answers "
        f"{row['task']} rightly in {percent(row['middle'])} of cases in the middle of the "
        f"text, and in {percent(row['ends'])} at its ends.",
        class_="callout",
    )


def _accuracy_chart(group: RetrievalGroup, task: str, identity: str) -> Html:
    rows = [
        row
        for row in group.by_length
        if row["task"] == task and number(row["accuracy"]) is not None
    ]
    if not rows:
        return Html("")
    asked = {number(r.get("threshold")) for r in group.effective if r["task"] == task}
    threshold = asked.pop() if len(asked) == 1 else None  # relative ones differ from model to model

    def draw() -> "Figure":
        return one_chart(
            lambda axis: draw_accuracy(
                axis, rows, key="length", label="length, tokens", window=group.window,
                target=group.target, threshold=threshold,
            )
        )  # fmt: skip

    return figure(Chart(f"{task}: right answers by length", *_accuracy_words(rows, "length", draw)),
                  identity)  # fmt: skip


def _choice_chart(group: RetrievalGroup, rows: Sequence[Row], identity: str) -> Html:
    chances = {row["chance"] for row in rows}
    chance = chances.pop() if len(chances) == 1 else None

    def draw() -> "Figure":
        return one_chart(
            lambda axis: draw_accuracy(
                axis, rows, key="length", label="length, tokens", window=group.window,
                target=group.target, threshold=chance, line="chance",
            )
        )  # fmt: skip

    title = f"{rows[0]['task']}: forced choice by length"
    return figure(Chart(title, *_accuracy_words(rows, "length", draw)), identity)


def _accuracy_words(
    rows: Sequence[Row], key: str, draw: Callable[[], "Figure"]
) -> tuple[str, Callable[[], "Figure"], dict[str, list[str]]]:
    """Description, drawing and tips of an accuracy chart."""
    tips, words = {}, []
    for index, model in enumerate(models_of(rows)):
        own = sorted((r for r in rows if r["model"] == model), key=lambda r: int(r[key]))
        tips[f"accuracy-{index}"] = [
            f"{model}, {show_length(r[key])}: {100 * r['accuracy']:.0f} %" for r in own
        ]
        words.append(
            f"{model}: "
            + ", ".join(f"{100 * r['accuracy']:.0f} % at {show_length(r[key])}" for r in own)
            + "."
        )
    return f"One curve a model. {' '.join(words)}", draw, tips


def _heat_maps(group: RetrievalGroup, at: int, most: int) -> Html:
    pairs = models_and_tasks(group.results)
    charts, tables, drawn = [], [], 0
    for index, (model, task) in enumerate(pairs):
        rows = [r for r in group.results if r["model"] == model and r["task"] == task]
        drawn += len(rows)
        if drawn <= most:
            charts.append(_heat_map(group, rows, f"{task}: {model}", f"heat{at}-{index}"))
        tables.append(data_table(f"{task}: {model}", cells_table(rows)))
    if not pairs:
        return Html("")
    parts: list[str] = [tag("h3", "By length and depth, % right")]
    if len(charts) < len(pairs):
        parts.append(tag("p", f"{len(pairs) - len(charts)} more are in the tables below only."))
    parts.append(tag("div", *charts, class_="charts"))
    parts.append(details("Every cell with its interval", *tables))
    return join(parts)


def _heat_map(group: RetrievalGroup, rows: Sequence[Row], title: str, identity: str) -> Html:
    lengths = sorted({row["length"] for row in rows})
    depths = sorted({row["depth"] for row in rows})

    def draw() -> "Figure":
        height = 1.2 + 0.3 * len(depths)
        return one_chart(lambda axis: draw_heat(axis, rows, window=group.window), height=height)

    tips = {
        f"cell-{lengths.index(row['length'])}-{depths.index(row['depth'])}": [
            f"{show_length(row['length'])}, depth {100 * row['depth']:.0f} %: "
            f"{100 * row['accuracy']:.0f} %"
        ]
        for row in rows
        if number(row["accuracy"]) is not None
    }
    known = [row["accuracy"] for row in rows if number(row["accuracy"]) is not None]
    words = (
        f"Heat map of {len(lengths)} lengths by {len(depths)} depths; cells from "
        f"{100 * min(known):.0f} to {100 * max(known):.0f} % right, all of them in the table below."
        if known
        else "Heat map without a measured cell."
    )
    return figure(Chart(title, words, draw, tips), identity)


def copying_section(groups: Sequence[CopyingGroup]) -> Html:
    """The demo's planted strings."""
    parts: list[str] = []
    for at, group in enumerate(groups):
        rows = [row for row in group.results if number(row["accuracy"]) is not None]

        def draw(group: CopyingGroup = group, rows: list[Row] = rows) -> "Figure":
            return one_chart(
                lambda axis: draw_accuracy(
                    axis, rows, key="distance", label="how far back it stands, tokens",
                    window=group.window, threshold=COPIED,
                )
            )  # fmt: skip

        parts.append(tag("h3", f"A planted string, {group.about}"))
        if rows:
            words = _accuracy_words(rows, "distance", draw)
            chart = figure(Chart("Tokens copied rightly by distance", *words), f"copy{at}")
            parts.append(tag("div", chart, class_="charts"))
        parts.append(details("Numbers", data_table("Copied", copying_table(group.results))))
    return section("copying", "Copying from far back", *parts) if parts else Html("")
