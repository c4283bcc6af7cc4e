"""The command `ctxext report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._laboratory import say_laboratory
from ctxext.cli._output import out, print_json, table

if TYPE_CHECKING:
    from ctxext.api.report import ReportResult
    from ctxext.report.findings.collected import Findings
    from ctxext.report.findings.differences import Difference
    from ctxext.report.tables.pivot import Table


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Folders that ctxext commands wrote.", show_default=False
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="HTML file to write.")
    ] = Path("report.html"),
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """What runs measured, side by side, and one HTML file to share.

    Takes folders of eval-ppl, eval-retrieval, eval-harness, fertility, finetune, extend, demo and
    lab.
    Says for each model whether it is stable at a length and whether it uses it, and which
    differences exceed noise. The file needs no network and holds no script.

    Example: ctxext report runs/eval runs/retrieval runs/yarn-lora -o report.html
    """
    from ctxext.api.report import make_report

    result = make_report(runs, output=output, overwrite=overwrite)
    if json:
        print_json(result)
    else:
        _render(result)


def _render(result: "ReportResult") -> None:
    from ctxext.report.tables.verdict import VERDICT_NOTE, verdict_table

    findings = result.findings
    for name, laboratory in findings.labs:
        out().print(f"{name}:")
        say_laboratory(laboratory)
    if findings.verdicts:
        table("verdict, the best first", *verdict_table(findings.verdicts))
        out().print(VERDICT_NOTE)
        for verdict in findings.verdicts:
            out().print(f"{verdict.model}: {verdict.sentence}")
    _perplexity(findings)
    _retrieval(findings)
    _others(findings)
    out().print("\nnot measured:")
    for sentence in findings.not_measured:
        out().print(f"- {sentence}")
    for _, row in findings.failed:
        out().print(f"{'-' if row.reads_at_most else 'failed:'} {row.model}: {row.error}")
    out().print(f"written: {result.output} ({result.bytes / 1024:,.0f} KiB)")


def _perplexity(findings: "Findings") -> None:
    from ctxext.report.findings.differences import by_nll, differences
    from ctxext.report.tables import perplexity as tables

    for group in findings.perplexity:
        by_length = differences(group.results, by_nll)
        by_position = differences(group.by_position, by_nll)
        _compared("window length", group.about, tables.by_length_table(group.results), by_length)
        _compared("position", group.about, tables.by_position_table(group.by_position), by_position)
        bits = tables.bits_per_byte_table(group.results)
        if bits[1]:
            table("bits per byte of text", *bits)
        for keys in group.key_tokens:
            cells = tables.key_tokens_table(keys.results)
            table("LongPPL: perplexity over key tokens", *cells)


def _compared(name: str, about: str, cells: "Table", compared: "Sequence[Difference]") -> None:
    """Print a table of perplexities, and of their differences."""
    from ctxext.report.tables import perplexity as tables

    if cells[1]:
        table(f"perplexity by {name} ({about})", *cells)
        out().print(tables.PERPLEXITY_NOTE)
    if compared:
        cells = tables.nll_difference_table(compared)
        table(f"difference of the loss by {name}, nats a token", *cells)
        out().print(tables.nll_difference_note(compared))


def _retrieval(findings: "Findings") -> None:
    from ctxext.report.findings.differences import by_accuracy, differences
    from ctxext.report.tables import retrieval as tables

    for group in findings.retrieval:
        if group.effective:
            table(f"effective length ({group.about})", *tables.effective_table(group))
        table("retrieval by length, Wilson's 95 % interval", *tables.accuracy_table(group))
        if group.by_choice:
            title = "forced choice, with Wilson's interval, and gain in nats a token"
            table(title, *tables.choice_table(group))
        if group.unsolved:
            out().print(tables.unsolved_note(group))
        answered = [score for score in group.by_length if score.task not in group.unanswered]
        if compared := differences(answered, by_accuracy):
            cells = tables.accuracy_difference_table(compared)
            table("difference of accuracy by length", *cells)
            out().print(tables.share_note(compared))
        if lost := [row for row in group.middle if row.lost]:
            table("lost in the middle", *tables.middle_table(lost))


def _others(findings: "Findings") -> None:
    from ctxext.report.tables.harness import harness_comparison
    from ctxext.report.tables.languages import fertility_table
    from ctxext.report.tables.retrieval import copying_table
    from ctxext.report.tables.training import config_table

    for group in findings.copying:
        title = f"a planted string copied from so many tokens back, {group.about}"
        table(title, *copying_table(group.results))
    for names, diff in findings.configs:
        table(f"config of {names}", *config_table(diff))
    for document in findings.fertility:
        cells = fertility_table(document.results, reference=document.reference)
        table(f"{document.model}: what text costs", *cells)
    if findings.harness is not None:
        table("downstream tasks", *harness_comparison(findings.harness))
