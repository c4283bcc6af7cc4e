"""Perplexity and LongPPL: curves, tables, differences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ctxext.report.charts.gain import draw_gain
from ctxext.report.charts.perplexity import draw_perplexity
from ctxext.report.charts.style import chart_title
from ctxext.report.charts.svg import Chart
from ctxext.report.findings.differences import Difference, by_nll, differences, gains, nats
from ctxext.report.findings.groups import PerplexityGroup
from ctxext.report.page.html import Html, data_table, details, figure, section, tag
from ctxext.report.page.sections.common import one_chart
from ctxext.report.tables.perplexity import (
    PERPLEXITY_NOTE,
    bits_per_byte_table,
    by_length_table,
    by_position_table,
    gain_table,
    key_tokens_table,
    nll_difference_note,
    nll_difference_table,
    show_place,
)
from ctxext.report.tables.pivot import Table
from ctxext.report.tables.text import perplexity
from ctxext.runs.rows.perplexity import LongPerplexity, PerplexityRow, PositionRow
from ctxext.runs.rows.row import models_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def perplexity_section(groups: Sequence[PerplexityGroup], order: Sequence[str]) -> Html:
    """Show curves and tables by length and by position, and differences to the first model.

    Args:
        order: all models of the page; a model's place gives its look.
    """
    if not groups:
        return Html("")
    parts = [
        tag("p", "Lower is better. Bars in charts are 95 % intervals; ± beside a perplexity is one "
            "standard error, half of such a bar; ± beside a difference is the 95 % interval.",
            class_="note")
    ]  # fmt: skip
    for at, group in enumerate(groups):
        parts.append(tag("h3", group.about))
        gained = gains(group.results)
        charts = [
            *_chart(group, group.results, "Perplexity by window length", f"ppl{at}-length", order),
            *_gain_chart(group, gained, f"gain{at}", order),
            *_chart(group, group.by_position, "Perplexity by position", f"ppl{at}-end", order),
        ]
        compared = differences(group.results, by_nll), differences(group.by_position, by_nll)
        tables = [
            *_tables("window length", by_length_table(group.results), compared[0]),
            *_tables("position", by_position_table(group.by_position), compared[1]),
        ]
        if gained:
            caption = "Nats a token that a longer window gains over the shortest"
            table = gain_table(group.results)
            tables.append(data_table(caption, table, note="the same text, with the 95 % interval"))
        bits = bits_per_byte_table(group.results)
        if bits[1]:
            note = "the same unit for every tokenizer"
            tables.append(data_table("Bits per byte of text", bits, note=note))
        parts.append(tag("div", *charts, class_="charts"))
        parts.append(details("Numbers, and which differences exceed noise", *tables))
    return section("perplexity", "Perplexity", *parts)


def _tables(name: str, table: Table, compared: Sequence[Difference]) -> list[Html]:
    caption = f"Perplexity by {name}"
    tables = [data_table(caption, table, note=PERPLEXITY_NOTE)] if table[1] else []
    if compared:
        caption, note = f"Difference of the loss by {name}", nll_difference_note(compared)
        tables.append(data_table(caption, nll_difference_table(compared), note=note))
    return tables


def _chart(
    group: PerplexityGroup,
    rows: Sequence[PerplexityRow],
    name: str,
    identity: str,
    order: Sequence[str],
) -> list[Html]:
    """Make a chart, where there are at least two places with a finite perplexity."""
    finite = [row for row in rows if row.perplexity is not None]
    if len({row.at for row in finite}) < 2:
        return []

    def draw() -> "Figure":
        return one_chart(
            lambda axis: draw_perplexity(
                axis, finite, window=group.window, target=group.target, order=order
            )
        )

    tips, words = {}, []
    curve = "position" if isinstance(finite[0], PositionRow) else "length"
    for index, model in enumerate(models_of(finite)):
        points = sorted((row for row in finite if row.model == model), key=lambda row: row.at)
        tips[f"{curve}-{index}"] = [
            f"{model}, {show_place(row.place)}: {perplexity(row)}" for row in points
        ]
        ends = [f"{perplexity(row)} at {show_place(row.place)}" for row in (points[0], points[-1])]
        words.append(f"{model}: {', '.join(ends)}.")
    description = f"One curve a model. {' '.join(words)}"
    title = chart_title(name, models_of(finite), group.text)
    return [figure(Chart(title, description, draw, tips), identity)]


def _gain_chart(
    group: PerplexityGroup, gained: Sequence[Difference], identity: str, order: Sequence[str]
) -> list[Html]:
    """Make a chart of what more context gains, where several lengths can be compared."""
    if len({each.place for each in gained}) < 2:
        return []

    def draw() -> "Figure":
        return one_chart(
            lambda axis: draw_gain(
                axis, gained, window=group.window, target=group.target, order=order
            )
        )

    tips, words = {}, []
    for index, model in enumerate(models_of(gained)):
        curve = sorted((each for each in gained if each.model == model), key=lambda d: d.place)
        said = [f"{nats(each.apart)} at {show_place(each.place)}" for each in curve]
        tips[f"gain-{index}"] = [f"{model}: {each}" for each in said]
        words.append(f"{model}: {', '.join(said)}.")
    description = f"One curve a model, above 0 where more context helps. {' '.join(words)}"
    title = chart_title("What more context gains", models_of(gained), group.text)
    return [figure(Chart(title, description, draw, tips), identity)]


def key_tokens_section(groups: Sequence[PerplexityGroup], order: Sequence[str]) -> Html:
    """Show LongPPL: perplexity of the tokens that depend on far text."""
    parts: list[str] = []
    pairs = [(group, keys) for group in groups for keys in group.key_tokens]
    for index, (group, keys) in enumerate(pairs):
        parts.append(tag("p", _rule(keys)))
        name = "Perplexity of key tokens by window length"
        charts = _chart(group, keys.results, name, f"key{index}", order)
        parts += [tag("div", *charts, class_="charts")] if charts else []
        parts.append(data_table("Perplexity over key tokens", key_tokens_table(keys.results)))
    return section("longppl", "LongPPL: tokens that need far text", *parts) if parts else Html("")


def _rule(keys: LongPerplexity) -> str:
    return (
        f"Tokens that {keys.reference} predicts better with the whole window than with the "
        f"{keys.context} tokens before them, by over {keys.gain} nats, and then with a loss under "
        f"{keys.loss} nats (LongPPL, arXiv:2410.23771)."
    )
