"""Perplexity and LongPPL: curves, tables, differences."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ctxext.lengths import show_length
from ctxext.report.charts import Chart
from ctxext.report.compare import number
from ctxext.report.comparison_tables import NLL_NOTE, nll_difference_table
from ctxext.report.findings import PerplexityGroup, Row
from ctxext.report.html import Html, data_table, details, figure, section, tag
from ctxext.report.plots import draw_lengths, draw_positions, models_of
from ctxext.report.sections.common import one_chart
from ctxext.report.tables import (
    bits_per_byte_table,
    by_length_table,
    by_position_table,
    key_tokens_table,
    perplexity,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def perplexity_section(groups: Sequence[PerplexityGroup]) -> Html:
    """Curves and tables by length and by position, differences against the first model."""
    if not groups:
        return Html("")
    parts = [
        tag("p", "Lower is better. Bars, and ± in charts, are 95 %; ± in tables is one standard "
            "error.", class_="note")
    ]  # fmt: skip
    for at, group in enumerate(groups):
        parts.append(tag("h3", group.about))
        charts, tables = [], []
        for rows, key, name, table, differences in (
            (group.results, "length", "window length", by_length_table, group.length_differences),
            (group.by_position, "end", "position", by_position_table, group.position_differences),
        ):
            finite = [row for row in rows if number(row.get("perplexity")) is not None]
            if finite and len({row[key] for row in finite}) > 1:
                draw = draw_lengths if key == "length" else draw_positions
                charts.append(_perplexity_chart(group, finite, key, name, draw, f"ppl{at}-{key}"))
            if rows:
                tables.append(data_table(f"Perplexity by {name}", table(rows)))
            if differences:
                tables.append(
                    data_table(
                        f"Difference of the negative log-likelihood by {name}",
                        nll_difference_table(differences), note=NLL_NOTE,
                    )
                )  # fmt: skip
        bits = bits_per_byte_table(group.results)
        if bits[1]:
            note = "the same unit for every tokenizer"
            tables.append(data_table("Bits per byte of text", bits, note=note))
        parts.append(tag("div", *charts, class_="charts"))
        parts.append(details("Numbers, and which differences exceed noise", *tables))
    return section("perplexity", "Perplexity", *parts)


def _perplexity_chart(
    group: PerplexityGroup,
    rows: Sequence[Row],
    key: str,
    name: str,
    draw_curves: Callable[..., None],
    identity: str,
) -> Html:
    def draw() -> "Figure":
        return one_chart(
            lambda axis: draw_curves(
                axis, rows, window=group.window, target=group.target, above=True
            )
        )

    tips = {}
    words = []
    for index, model in enumerate(models_of(rows)):
        own = sorted((r for r in rows if r["model"] == model), key=lambda r: int(r[key]))
        gid = f"{'length' if key == 'length' else 'position'}-{index}"
        tips[gid] = [f"{model}, {_at(row)}: {perplexity(row)}" for row in own]
        words.append(
            f"{model}: {perplexity(own[0])} at {_at(own[0])}, {perplexity(own[-1])} at "
            f"{_at(own[-1])}."
        )
    title = f"Perplexity by {name}"
    return figure(Chart(title, f"One curve a model. {' '.join(words)}", draw, tips), identity)


def _at(row: Row) -> str:
    if "length" in row:
        return show_length(row["length"])
    return f"{show_length(row['start'])}-{show_length(row['end'])}"


def key_tokens_section(groups: Sequence[PerplexityGroup]) -> Html:
    """LongPPL: perplexity of the tokens that depend on far text."""
    parts: list[str] = []
    for index, found in enumerate(one for group in groups for one in group.key_tokens):
        about = (
            f"Tokens that {found.get('reference')} predicts better with the whole window than with "
            f"the {found.get('context')} tokens before them, by over {found.get('gain')} nats, and "
            f"then with a loss under {found.get('loss')} nats (LongPPL, arXiv:2410.23771)."
        )
        rows = found["results"]
        finite = [row for row in rows if number(row.get("perplexity")) is not None]
        parts.append(tag("p", about))
        if len({row["length"] for row in finite}) > 1:
            group = PerplexityGroup(about, None)
            parts.append(
                tag("div", _perplexity_chart(
                    group, finite, "length", "window length, key tokens only", draw_lengths,
                    f"key{index}",
                ), class_="charts")
            )  # fmt: skip
        parts.append(data_table("Perplexity over key tokens", key_tokens_table(rows)))
    return section("longppl", "LongPPL: tokens that need far text", *parts) if parts else Html("")
