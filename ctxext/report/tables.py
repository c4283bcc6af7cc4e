"""Measurements as rows of text: the same for the terminal, Markdown and the model card."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ctxext.lengths import show_length
from ctxext.report.compare import number
from ctxext.runs.checked import printable_text

Rows = Sequence[Mapping[str, Any]]
Table = tuple[list[str], list[list[str]]]
_LARGE = 1e6  # perplexities from here on are shown as powers of ten


def by_length_table(results: Rows) -> Table:
    """Columns and rows: one row for each model, one column for each window length."""
    lengths = sorted({row["length"] for row in results})
    cells = {(r["model"], r["length"]): perplexity(r) for r in results}
    models = list(dict.fromkeys(r["model"] for r in results))
    return (
        ["model", *(show_length(n) for n in lengths)],
        [[m, *(cells.get((m, n), "") for n in lengths)] for m in models],
    )


def bits_per_byte_table(results: Rows) -> Table:
    """Columns and rows as `by_length_table`, of what tokenizers do not change; none without it."""
    known = [row for row in results if row.get("bits_per_byte") is not None]
    lengths = sorted({row["length"] for row in known})
    cells = {(r["model"], r["length"]): f"{r['bits_per_byte']:.4f}" for r in known}
    models = list(dict.fromkeys(r["model"] for r in known))
    return (
        ["model", *(show_length(n) for n in lengths)],
        [[m, *(cells.get((m, n), "") for n in lengths)] for m in models],
    )


def gain_table(results: Rows) -> Table:
    """Columns and rows: what longer windows gain on the same tokens; none unless aligned."""
    known = [row for row in results if row.get("gain") is not None]
    lengths = sorted({row["length"] for row in known})
    cells = {(r["model"], r["length"]): _gain(r) for r in known}
    models = list(dict.fromkeys(r["model"] for r in known))
    return (
        ["model", *(show_length(n) for n in lengths)],
        [[m, *(cells.get((m, n), "") for n in lengths)] for m in models],
    )


def _gain(row: Mapping[str, Any]) -> str:
    error = row.get("gain_stderr")
    return f"{row['gain']:+.3f}" + ("" if error is None else f" ± {error:.3f}")


def by_position_table(rows: Rows) -> Table:
    """Columns and rows: one row for each model, one column for each range of positions."""
    buckets = sorted({(row["start"], row["end"]) for row in rows})
    cells = {(r["model"], r["start"], r["end"]): perplexity(r) for r in rows}
    models = list(dict.fromkeys(r["model"] for r in rows))
    return (
        ["model", *(f"{show_length(a)}-{show_length(b)}" for a, b in buckets)],
        [[m, *(cells.get((m, a, b), "") for a, b in buckets)] for m in models],
    )


def key_tokens_table(rows: Rows) -> Table:
    """Columns and rows: LongPPL by length, and the share of tokens it is taken over."""
    lengths = sorted({row["length"] for row in rows})
    cells = {(r["model"], r["length"]): _long_perplexity(r) for r in rows}
    models = list(dict.fromkeys(r["model"] for r in rows))
    return (
        ["model", *(show_length(n) for n in lengths)],
        [[m, *(cells.get((m, n), "") for n in lengths)] for m in models],
    )


def _long_perplexity(row: Mapping[str, Any]) -> str:
    if row["perplexity"] is None:
        return "no key token"
    return f"{perplexity(row)} ({percent(row['share'], '.2g')} of tokens)"


def copying_table(rows: Rows) -> Table:
    """Columns and rows: one row for each model, one column for each distance, in percent."""
    distances = sorted({row["distance"] for row in rows})
    cells = {(r["model"], r["distance"]): percent(r["accuracy"]) for r in rows}
    models = list(dict.fromkeys(r["model"] for r in rows))
    return (
        ["model", *(f"{d} back" for d in distances)],
        [[m, *(cells.get((m, d), "") for d in distances)] for m in models],
    )


def fertility_table(rows: Rows, *, reference: str | None) -> Table:
    """Columns and rows: one row for each text, the one that fills the window soonest last."""
    ordered = sorted(rows, key=lambda row: (-row["window_characters"], row["language"]))
    columns = ["language", "tokens", "per character", "per byte", "per word"]
    if reference is not None:
        columns.append(f"against {reference}")
    columns.append("characters in the window")
    unknown = any(row.get("unknown") for row in rows)
    return (
        [*columns, *(["unknown tokens"] if unknown else [])],
        [
            [
                str(row["language"]),
                f"{row['tokens']:,}",
                shown(row["tokens_per_character"], ".3f"),
                shown(row["tokens_per_byte"], ".3f"),
                # A script without spaces has no words to count.
                "no spaces" if row["words"] is None else shown(row["tokens_per_word"], ".2f"),
                *([shown(row["against_reference"], ".2f")] if reference is not None else []),
                f"{row['window_characters']:,}",
                *([f"{row.get('unknown') or 0:,}"] if unknown else []),
            ]
            for row in ordered
        ],
    )


def harness_table(rows: Rows) -> Table:
    """Columns and rows as lm-evaluation-harness prints them."""
    return (
        ["task", "version", "filter", "n-shot", "metric", "value", "stderr", "documents"],
        [
            [
                row["task"],
                _shown(row["version"]),
                row["filter"],
                _shown(row["n_shot"]),
                row["metric"],
                f"{row['value']:.4f}" if abs(row["value"]) < 1e6 else f"{row['value']:.4g}",
                "" if row["stderr"] is None else f"± {row['stderr']:.4f}",
                _shown(row["samples"]),
            ]
            for row in rows
        ],
    )


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def shown(value: Any, form: str) -> str:
    """A number, or a dash for one that is not there or not finite."""
    known = number(value)
    return "–" if known is None else format(known, form)


def percent(value: Any, form: str = ".0f") -> str:
    """A share as `42 %`, or a dash."""
    known = number(value)
    return "–" if known is None else f"{100 * known:{form}} %"


def perplexity(row: Mapping[str, Any]) -> str:
    """`4.321 ± 0.056`: the standard error of the NLL carried over to the perplexity."""
    value = number(row["perplexity"])
    if value is None:
        return "–"
    form = f".{max(0, 3 - len(str(int(value)))) + 1}f" if value < _LARGE else ".2e"
    stderr = number(row.get("stderr"))
    error = "" if stderr is None else f" ± {value * stderr:{form}}"
    return f"{value:{form}}{error}"


def markdown(table: Table) -> str:
    """GitHub Markdown, cells escaped."""
    columns, rows = table
    lines = [_line(columns), "|" + " --- |" * len(columns), *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escape_markdown(cell, cell=True) for cell in cells) + " |"


_MARKUP = re.compile(r"([\\`*_<>|\[\]&~$#!])")
_LINK = re.compile(r"(?i)(?<=https)(?=:)|(?<=http)(?=:)|(?<=www)(?=\.)")
_BLOCK = re.compile(r"[-+=]|[0-9]+(?=[.)])")  # which begins a list, or underlines a heading


def escape_markdown(text: str, *, cell: bool = False) -> str:
    """Text that Markdown shows as it stands: no markup, no link, no HTML, no new line.

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
    """A code span that holds the text: nothing in it ends one."""
    return f"`{printable_text(text).replace('`', chr(39)).strip() or ' '}`"
