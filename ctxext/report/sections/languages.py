"""What other languages cost, by the fertility runs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.bars import by_cost, fertility_figure
from ctxext.report.charts import Chart
from ctxext.report.comparison_tables import fertility_comparison
from ctxext.report.findings import Row
from ctxext.report.html import Html, data_table, details, figure, section, tag
from ctxext.report.sections.common import WIDTH
from ctxext.report.tables import fertility_table, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def fertility_section(documents: Sequence[Row]) -> Html:
    """Bars and table for each tokenizer."""
    parts: list[str] = []
    for at, document in enumerate(documents):
        rows, reference = document["results"], document.get("reference")
        charts = [
            _fertility_chart(document, panel, f"fert{at}-{panel}")
            for panel in (0, 1)
        ]  # fmt: skip
        parts.append(tag("h3", f"{document['model']}, window {show_length(document['window'])}"))
        parts.append(tag("div", *charts, class_="charts"))
        table = fertility_table(rows, reference=reference)
        parts.append(details("Numbers", data_table(f"Text in {document['model']}", table)))
    if len(documents) > 1:
        table = fertility_comparison(documents)
        parts.append(data_table("Characters in the window (tokens per character)", table))
    return section("fertility", "What other languages cost", *parts) if parts else Html("")


def _fertility_chart(document: Row, panel: int, identity: str) -> Html:
    rows, reference, window = document["results"], document.get("reference"), document["window"]
    ordered = by_cost(rows)

    def draw() -> "Figure":
        return fertility_figure(
            rows, reference=reference, window=window, width=WIDTH, panels=(panel,), titled=False
        )

    if panel == 1:
        title, key, form = "Characters in the window", "window_characters", ",.0f"
    elif reference is None:
        title, key, form = "Tokens per character", "tokens_per_character", ".2f"
    else:
        title, key, form = f"Tokens, times those of {reference}", "against_reference", ".2f"
    texts = [f"{row['language']}: {shown(row[key], form)}" for row in ordered]
    tips = {f"bar-{at}": [text] for at, text in enumerate(texts)}
    words = f"One bar a language. {', '.join(reversed(texts))}."
    return figure(Chart(title, words, draw, tips), identity)
