"""Text, code and tables in Markdown: nothing that comes from outside becomes markup."""

import re
from collections.abc import Sequence

from ctxext.report.tables.pivot import Table
from ctxext.runs.checked import printable_text

_MARKUP = re.compile(r"([\\`*_<>|\[\]&~$#!])")
_LINK = re.compile(r"(?i)(?<=https)(?=:)|(?<=http)(?=:)|(?<=www)(?=\.)")
_BLOCK = re.compile(r"[-+=]|[0-9]+(?=[.)])")  # which begins a list, or underlines a heading


def escape_markdown(text: str, *, cell: bool = False) -> str:
    """Write text that Markdown shows as it stands: no markup, no link, no HTML, no new line.

    Args:
        cell: whether it stands in a table, where no list and no heading begins.
    """
    text = _MARKUP.sub(r"\\\1", printable_text(text).strip())
    text = _LINK.sub(r"\\", text)
    start = _BLOCK.match(text)
    if start is None or cell:
        return text
    at = start.end() if start[0].isdigit() else 0
    return f"{text[:at]}\\{text[at:]}"


def markdown_code(text: str) -> str:
    """Write a code span that holds the text: nothing in it ends one."""
    return f"`{printable_text(text).replace('`', chr(39)).strip() or ' '}`"


def code_line(text: str) -> str:
    """Write a line of a code block, which three backticks would end."""
    return printable_text(text).replace("`", "'")


def markdown_table(table: Table) -> str:
    """Write GitHub Markdown, cells escaped."""
    columns, lines = table
    rows = [_line(columns), "|" + " --- |" * len(columns), *(_line(line) for line in lines)]
    return "\n".join(rows)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape_markdown(cell, cell=True) for cell in cells) + " |"
