"""The one sink: JSON documents and tables to stdout, warnings and errors to stderr."""

import json
import os
import sys
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

import typer

from ctxext.cli._columns import fitted, naming_columns
from ctxext.errors import CtxextError
from ctxext.machine.launch import environment_rank
from ctxext.masking import masked
from ctxext.progress import Note, unheard
from ctxext.runs.checked import printable_text
from ctxext.runs.json_file import finite
from ctxext.runs.rows.row import Failed

if TYPE_CHECKING:
    from rich.console import Console


class Result(Protocol):
    """What every API function returns."""

    def to_dict(self) -> dict[str, Any]: ...


def out() -> "Console":
    """Return the console for results; plain when stdout is not a terminal."""
    return _console(sys.stdout, soft_wrap=not sys.stdout.isatty())


def err() -> "Console":
    """Return the console for everything that is no result."""
    return _console(sys.stderr, soft_wrap=True)


def _console(stream: TextIO, *, soft_wrap: bool) -> "Console":
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        """Shows every text as it stands: names come from files, and may hold markup or codes."""

        def on_broken_pipe(self) -> None:
            abandon(stream)  # nobody reads any more (`| head`); rich would exit

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(terminal_text(text), **options)

    return Plain(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=soft_wrap)


def terminal_text(text: str) -> str:
    """Make text move no cursor and change no color: control characters are shown as such."""
    return "\n".join(printable_text(line) for line in text.split("\n"))


def abandon(stream: TextIO) -> None:
    """Send what is still written to a stream nowhere, what Python flushes at exit too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _write(text: str) -> None:
    """Write plain text to stdout, now."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        abandon(sys.stdout)


def print_json(result: Result) -> None:
    """Print the only line on stdout under --json."""
    # ASCII: whatever stdout's encoding is, and with half a surrogate pair in a name too.
    _write(json.dumps(finite(result.to_dict())) + "\n")


def say_warnings(warnings: Sequence[str]) -> None:
    console = err()
    for warning in warnings:
        console.print("warning: ", style="yellow", end="")
        console.print(warning)


def say_note(*, quiet: bool) -> Note:
    """Make what says a sentence on stderr; nothing under `--quiet`, or of ranks but the first."""
    if quiet or environment_rank() != 0:
        return unheard
    console = err()
    return lambda sentence: console.print(sentence)


def say_failed(failed: Sequence[Failed], measured: Collection[int], *, resumable: bool) -> None:
    """Name what could not be measured, and exit with 1; nothing failed: do nothing.

    That one model has no positions for a length is no failure where another was measured there.

    Args:
        measured: the lengths that some model was measured at, tokens.
    """
    passed_over = [row for row in failed if row.reads_at_most and row.length in measured]
    say_warnings([f"length {row.length} is passed over: {row.error}" for row in passed_over])
    wrong = [row for row in failed if row not in passed_over]
    if not wrong:
        return
    console = err()
    for row in wrong:
        console.print("ctxext: ", style="red", end="")
        console.print(f"length {row.length} is not measured: {row.error}")
    if resumable and not all(row.reads_at_most for row in wrong):
        console.print(
            "  the rest is kept; once the reason is gone, the same command measures those too"
        )
    raise typer.Exit(1)


def say_error(error: CtxextError, *, as_json: bool) -> None:
    """Say one sentence and the way out; under --json the same as a document on stdout."""
    console = err()
    message, hint = masked(str(error)), masked(error.hint)
    console.print("ctxext: ", style="red", end="")
    console.print(message)
    if hint:
        console.print(f"  {hint}")
    if as_json:
        document = {"schema": "ctxext.error/1", "error": message, "hint": hint}
        _write(json.dumps(document) + "\n")


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, words: bool = False
) -> None:
    """Print a table: drawn on a terminal, in parts where it is too wide.

    In a pipe it is GitHub Markdown, to paste in an issue.

    Args:
        words: cells are sentences, not numbers that end below each other.
    """
    if not sys.stdout.isatty():
        text = [f"\n**{printable_text(title)}**\n"] if title else []
        text.append(_piped(columns))
        text.append("|" + "|".join(" --- " for _ in columns) + "|")
        text += [_piped(row) for row in rows]
        _write("\n".join(text) + "\n")
        return
    from rich.table import Table

    names = naming_columns(rows)
    for at, (heads, lines) in enumerate(fitted(columns, rows, out().width)):
        drawn = Table(title=title if title and at == 0 else None, title_justify="left")
        for index, head in enumerate(heads):
            justify: Literal["left", "right"] = "left" if words or index < names else "right"
            drawn.add_column(head, justify=justify, overflow="fold", no_wrap=index >= names)
        for line in lines:
            drawn.add_row(*line)
        out().print(drawn)


def _piped(cells: Sequence[str]) -> str:
    """Write a line of a Markdown table for people: only what would end a cell is escaped."""
    return "| " + " | ".join(printable_text(cell).replace("|", "\\|") for cell in cells) + " |"
