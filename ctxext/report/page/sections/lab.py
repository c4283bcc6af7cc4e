"""The laboratory: a card for each statement's verdict, then the pictures and tables behind it."""

from collections.abc import Sequence
from dataclasses import replace

from ctxext.report.charts.encodings import (
    order_panel,
    position_panel,
    reading_panel,
    recall_panel,
)
from ctxext.report.charts.extensions import extension_panels, pair_panels, steps_panel
from ctxext.report.charts.panels import Panel, alone
from ctxext.report.findings.lab import difference_words, headline, setting, strength_words, tally
from ctxext.report.page.html import Html, bullets, data_table, details, figure, join, section, tag
from ctxext.report.page.sections.common import WIDTH
from ctxext.report.tables.lab import lab_tables
from ctxext.runs.rows.lab import LabResult, LabStatement

_LOOKS = {"holds": ("good", "✓"), "does not hold": ("bad", "✕"), "undecided": ("fair", "◐")}
_P = "p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"
_HOW = (
    "A statement is a sentence of the literature that can come out false here. Its difference is "
    "above 0 where it is true, taken pair by pair over seeds; ± and the bars in charts are one "
    "standard error. Undecided: p of the paired t test is 0.05 or more."
)


def lab_section(labs: Sequence[tuple[str, LabResult]]) -> Html:
    """Show the laboratories, one after the other.

    Args:
        labs: each with the name of its run.
    """
    if not labs:
        return Html("")
    parts: list[str] = [tag("p", _HOW, class_="note")]
    for at, (name, result) in enumerate(labs):
        if len(labs) > 1:
            parts.append(tag("h3", f"{name}: {headline(result)}"))
        parts += _laboratory(result, f"lab{at}")
    return section("lab", "Laboratory: what holds, and what does not", *parts)


def _laboratory(result: LabResult, identity: str) -> list[Html]:
    seeds = len(result.seeds)
    cards = [_card(statement, seeds) for statement in result.statements]
    verdicts = [
        tag("p", tag("strong", f"{tally(result.statements)}.")),
        tag("ul", *cards, class_="verdicts"),
    ]
    facts = (join([tag("dt", word), tag("dd", value)]) for word, value in setting(result))
    tables = [
        data_table(each.title, each.cells, note=each.note, words=each.words, stacked=each.words)
        for each in lab_tables(result)
    ]
    return [
        *(verdicts if cards else []),
        *_charts("By encoding", identity, 0, [
            position_panel(result), recall_panel(result), reading_panel(result),
            order_panel(result),
        ]),
        *_charts("What can be done without training", identity, 3, _changed(result)),
        *_charts("RoPE pair by pair", identity, 1, pair_panels(result)),
        *_charts("RoPE extended", identity, 2, [*extension_panels(result), steps_panel(result)]),
        *([bullets(result.notes)] if result.notes else []),
        details("Setting", tag("dl", *facts)),
        details("Numbers", *tables) if tables else Html(""),
    ]  # fmt: skip


def _changed(result: LabResult) -> list[Panel | None]:
    """Draw each encoding that something was done to, what was done beside as trained."""
    changed = dict.fromkeys(row.encoding for row in result.by_position if row.variant)
    panels = [(name, position_panel(result, name)) for name in changed]
    return [panel and replace(panel, title=f"Perplexity by position: {name}")
            for name, panel in panels]  # fmt: skip


def _card(statement: LabStatement, seeds: int) -> Html:
    look, sign = _LOOKS[statement.verdict]
    said = strength_words(statement, seeds).replace("p = ", _P)
    if statement.difference is not None:
        said = f"{difference_words(statement)}: {said}"
    badge = tag("span", tag("span", sign, aria_hidden="true"), f" {statement.verdict}",
                class_=f"badge {look}")  # fmt: skip
    return tag(
        "li",
        tag("strong", statement.claim[:1].upper() + statement.claim[1:]),
        badge,
        tag("p", f"{said[:1].upper()}{said[1:]}."),
        tag("p", f"Measured: {statement.measured}. Said by {statement.source}.", class_="note"),
    )


def _charts(title: str, identity: str, group: int, panels: Sequence[Panel | None]) -> list[Html]:
    """Show a heading and the charts that have something to show; nothing where none has."""
    drawn = [
        figure(alone(panel, width=WIDTH), f"{identity}-{group}-{at}")
        for at, panel in enumerate(panels)
        if panel is not None
    ]
    return [tag("h3", title), tag("div", *drawn, class_="charts")] if drawn else []
