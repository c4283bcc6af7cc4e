"""`ctxext report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._output import out, print_json, table

if TYPE_CHECKING:
    from ctxext.api.report import Report
    from ctxext.report.findings import Findings


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders that ctxext commands wrote.", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path(
        "report.html"
    ),
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """What runs measured, side by side, and one HTML file to share.

    Takes folders of eval-ppl, eval-retrieval, eval-harness, fertility, finetune, extend and demo.
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


def _render(result: "Report") -> None:
    from ctxext.report.comparison_tables import verdict_table

    found = result.findings
    if found.verdicts:
        table("verdict", *verdict_table(found.verdicts))
        for one in found.verdicts:
            out().print(f"{one.model}: {one.sentence}")
    _perplexity(found)
    _retrieval(found)
    _others(found)
    out().print("\nnot measured:")
    for sentence in found.not_measured:
        out().print(f"- {sentence}")
    for row in found.failed:
        out().print(f"failed: {row.get('model')}: {row.get('error')}")
    out().print(f"written: {result.output} ({result.bytes / 1024:,.0f} KiB)")


def _perplexity(found: "Findings") -> None:
    from ctxext.report.comparison_tables import NLL_NOTE, nll_difference_table
    from ctxext.report.tables import (
        bits_per_byte_table,
        by_length_table,
        by_position_table,
        key_tokens_table,
    )

    for group in found.perplexity:
        compared = False
        for name, rows, cells, differences in (
            ("window length", group.results, by_length_table, group.length_differences),
            ("position", group.by_position, by_position_table, group.position_differences),
        ):
            if rows:
                table(f"perplexity by {name} ({group.about})", *cells(rows))
            if differences:
                table(f"difference of NLL by {name}", *nll_difference_table(differences))
                compared = True
        if compared:
            out().print(NLL_NOTE)
        bits = bits_per_byte_table(group.results)
        if bits[1]:
            table("bits per byte of text", *bits)
        for keys in group.key_tokens:
            table(
                "LongPPL: perplexity over key tokens",
                *key_tokens_table(keys["results"]),
            )


def _retrieval(found: "Findings") -> None:
    from ctxext.report import comparison_tables as tables

    for group in found.retrieval:
        if group.effective:
            table(f"effective length ({group.about})", *tables.effective_table(group))
        table("retrieval by length, Wilson's 95 % interval", *tables.accuracy_table(group))
        if group.by_choice:
            title = "forced choice, with Wilson's interval, and gain in nats a token"
            table(title, *tables.choice_table(group))
        if group.differences:
            differences = tables.accuracy_difference_table(group.differences)
            table("difference of accuracy by length", *differences)
            out().print(tables.SHARE_NOTE)
        if lost := [row for row in group.middle if row["lost"]]:
            table("lost in the middle", *tables.middle_table(lost))


def _others(found: "Findings") -> None:
    from ctxext.report import comparison_tables as tables
    from ctxext.report.tables import copying_table, fertility_table

    for group in found.copying:
        title = f"a planted string copied from so many tokens back, {group.about}"
        table(title, *copying_table(group.results))
    for names, diff in found.configs:
        table(f"config of {names}", *tables.config_table(diff))
    for document in found.fertility:
        cells = fertility_table(document["results"], reference=document.get("reference"))
        table(f"{document['model']}: what text costs", *cells)
    if found.harness is not None:
        table("downstream tasks", *tables.harness_comparison(found.harness))
