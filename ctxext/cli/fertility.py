"""The command `ctxext fertility`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._evaluation import say_begun, say_written
from ctxext.cli._output import print_json, say_warnings, table
from ctxext.cli._progress import progress
from ctxext.lengths import show_length

if TYPE_CHECKING:
    from ctxext.runs.rows.fertility import FertilityResult


def command(
    model: options.Model,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Folder with one text file a language: en.txt, de.txt, ...",
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference",
            metavar="NAME",
            help="Language to compare with. [default: en, eng or english]",
        ),
    ] = None,
    output_dir: options.OutputDir = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    field: options.Field = "text",
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """What text costs in each language: tokens per character, and how far the window reaches.

    Reads the tokenizer and the config only, no weights. The same text in many languages shows what
    a language pays: tokens against English, and the characters that the window holds.

    Example: ctxext fertility MODEL --data udhr/ --output-dir runs/fertility
    """
    from ctxext.api.fertility import fertility

    say_begun("fertility", [model], data, quiet=quiet)
    with progress(quiet=quiet) as listen:
        result = fertility(
            model,
            data=data,
            reference=reference,
            field=field,
            output_dir=output_dir,
            overwrite=overwrite,
            revision=revision,
            tokenizer=tokenizer,
            trust_remote_code=trust_remote_code,
            on_progress=listen,
        )
    if json:
        print_json(result)
    else:
        _render(result)
    say_warnings(result.warnings)
    say_written(result.output_dir, quiet=quiet)


def _render(result: "FertilityResult") -> None:
    from ctxext.report.tables.languages import fertility_table

    columns, rows = fertility_table(result.results, reference=result.reference)
    table(f"{result.model}: what text costs (window {show_length(result.window)})", columns, rows)
