"""What a laboratory measured, on a terminal: `ctxext lab` and `ctxext report` show the same."""

from typing import TYPE_CHECKING

from ctxext.cli._output import out, table

if TYPE_CHECKING:
    from ctxext.runs.rows.lab import LabResult


def say_laboratory(result: "LabResult") -> None:
    """Print the headline, the verdicts, and the tables that they rest on."""
    from ctxext.report.findings.lab import headline
    from ctxext.report.tables.lab import lab_tables

    for each in lab_tables(result):
        table(each.title, *each.cells, words=each.words)
        if each.note:
            out().print(each.note)
    for note in result.notes:
        out().print(f"note: {note}")
    out().print(f"\n{headline(result)}.")
