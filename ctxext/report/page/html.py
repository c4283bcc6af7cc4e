"""Small pieces of HTML. Text is escaped unless it already is `Html`, which only this file makes."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Final

from ctxext.report.charts.svg import Chart, clean, inline_svg
from ctxext.report.tables.pivot import Table

_VOID: Final = ("meta", "link", "br")
# Where a cell of numbers may break: at a comma outside brackets, and before a parenthesis.
_PIECES: Final = re.compile(r"(?<=,) (?![^\[]*\])| (?=\()")


class Html(str):
    """Markup that goes into a page as it stands."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str) -> Html:
    """Make an element. `class_` is the attribute class, `aria_label` is aria-label.

    >>> tag("p", "1 < 2", tag("b", "!"), class_="note")
    '<p class="note">1 &lt; 2<b>!</b></p>'
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(clean(value), quote=True)}"'
        for key, value in attributes.items()
    )
    if name in _VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(children)}</{name}>")


def join(pieces: Iterable[str]) -> Html:
    """Join pieces one after the other, each escaped unless it is markup."""
    return Html(
        "".join(
            piece if isinstance(piece, Html) else html.escape(clean(piece), quote=False)
            for piece in pieces
        )
    )


def data_table(
    caption: str, table: Table, *, note: str = "", words: bool = False, stacked: bool = False
) -> Html:
    """Make a table with caption and header cells; it scrolls by itself where the page is narrow.

    Args:
        note: a line under the caption.
        words: cells hold words rather than numbers: they may break.
        stacked: on a phone each line becomes a block, a cell with its head below the other, so
            that nothing has to be scrolled for.
    """
    columns, rows = table
    heads = columns if stacked else [""] * len(columns)
    look = " ".join(name for name, on in (("words", words), ("stacked", stacked)) if on)
    head = tag("tr", *(tag("th", column, scope="col") for column in columns))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(_cell(cell, head) for head, cell in zip(heads[1:], row[1:], strict=True)),
        )
        for row in rows
    ]
    inner = tag(
        "table",
        tag("caption", tag("span", caption, *([tag("span", note, class_="note")] if note else []))),
        tag("thead", head),
        tag("tbody", *body),
        **({"class_": look} if look else {}),
    )
    return tag("div", inner, class_="scroll", role="region", tabindex="0", aria_label=caption)


def _cell(text: str, head: str) -> Html:
    """Make a cell; `head` is written before it where the table is stacked."""
    label = {"data_label": head} if head else {}
    classes = [
        *(["noise"] if "(noise)" in text else []),
        *(["parts"] if (pieces := _PIECES.split(text))[1:] else []),
    ]
    if not classes:
        return tag("td", text, **label)
    spans = [tag("span", piece) for piece in pieces]
    gaps = [Html(" ")] * (len(spans) - 1)
    inside = [each for pair in zip(spans, [*gaps, Html("")], strict=True) for each in pair]
    return tag("td", *inside, class_=" ".join(classes), **label)


def details(summary: str, *children: str) -> Html:
    """Make a part that opens when asked for."""
    return tag("details", tag("summary", summary), *children)


def figure(chart: Chart, identity: str, *, wide: bool = False) -> Html:
    """Make a chart with its title as caption."""
    svg = Html(inline_svg(chart, identity))
    caption = tag("figcaption", chart.title)
    return tag("figure", caption, svg, class_="chart wide" if wide else "chart")


def section(identity: str, title: str, *children: str) -> Html:
    """Make a part of the page with a heading that can be linked to."""
    return tag("section", tag("h2", title, id=identity), *children, aria_labelledby=identity)


def bullets(items: Sequence[str]) -> Html:
    return tag("ul", *(tag("li", item) for item in items))
