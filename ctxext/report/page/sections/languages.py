"""What other languages cost, by the fertility runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.charts.languages import by_cost, fertility_figure
from ctxext.report.charts.style import chart_title
from ctxext.report.charts.svg import Chart
from ctxext.report.page.html import Html, data_table, details, figure, section, tag
from ctxext.report.page.sections.common import WIDTH
from ctxext.report.tables.languages import fertility_comparison, fertility_table
from ctxext.report.tables.text import shown
from ctxext.runs.rows.fertility import FertilityResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fertility_section(documents: Sequence[FertilityResult]) -> Html:
    """Show bars and table of each tokenizer."""
    parts: list[str] = []
    for at, document in enumerate(documents):
        charts = [_fertility_chart(document, panel, f"fert{at}-{panel}") for panel in (0, 1)]
        parts.append(tag("h3", f"{document.model}, window {show_length(document.window)}"))
        parts.append(tag("div", *charts, class_="charts"))
        table = fertility_table(document.results, reference=document.reference)
        parts.append(details("Numbers", data_table(f"Text in {document.model}", table)))
    if len(documents) > 1:
        table = fertility_comparison(documents)
        parts.append(data_table("Characters in the window (tokens per character)", table))
    return section("fertility", "What other languages cost", *parts) if parts else Html("")


def _fertility_chart(document: FertilityResult, panel: int, identity: str) -> Html:
    rows, reference = document.results, document.reference
    ordered = by_cost(rows)

    def draw() -> "Figure":
        return fertility_figure(
            rows, reference=reference, window=document.window, width=WIDTH, panels=(panel,),
            titled=False,
        )  # fmt: skip

    if panel == 1:
        what = "Characters in the window"
        values = [f"{row.window_characters:,}" for row in ordered]
    elif reference is None:
        what = "Tokens per character"
        values = [shown(row.tokens_per_character, ".2f") for row in ordered]
    else:
        what = f"Tokens, times those of {reference}"
        values = [shown(row.against_reference, ".2f") for row in ordered]
    texts = [f"{row.language}: {value}" for row, value in zip(ordered, values, strict=True)]
    tips = {f"bar-{at}": [text] for at, text in enumerate(texts)}
    words = f"One bar a language. {', '.join(reversed(texts))}."
    title = chart_title(what, [document.model], None)
    return figure(Chart(title, words, draw, tips), identity)
