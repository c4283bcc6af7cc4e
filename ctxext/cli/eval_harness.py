"""The command `ctxext eval-harness`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._evaluation import say_begun, say_written
from ctxext.cli._output import print_json, say_warnings, table
from ctxext.cli._progress import progress
from ctxext.lengths import parse_length, parse_lengths, show_length
from ctxext.report.tables.harness import harness_table

if TYPE_CHECKING:
    from ctxext.runs.rows.harness import HarnessResult


def command(
    model: options.Model,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks", metavar="NAMES", help="Tasks, groups or tags of the harness, with commas."
        ),
    ],
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths",
            metavar="LENGTHS",
            help="For tasks made at lengths (RULER), e.g. 4k,16k. [default: the window]",
        ),
    ] = None,
    max_length: Annotated[
        str | None,
        typer.Option(
            "--max-length",
            metavar="LENGTH",
            help="Tokens the harness may use. [default: the window]",
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(
            "--num-fewshot",
            metavar="N",
            min=0,
            help="Examples in a prompt. [default: the task's]",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            help="Only so many documents of a task (and length). [default: all]",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            metavar="N",
            min=0,
            callback=options.at_most(options.MOST_SEED),
            help="Seed of everything random. [default: the harness's own]",
        ),
    ] = None,
    output_dir: options.OutputDir = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    include_path: Annotated[
        Path | None,
        typer.Option(
            "--include-path",
            metavar="DIR",
            help="Folder with task YAMLs of your own.",
            rich_help_panel=options.READ,
        ),
    ] = None,
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            callback=options.at_most(2**20),
            help="Requests read together.",
            rich_help_panel=options.DEVICE,
        ),
    ] = 1,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Tasks of EleutherAI's lm-evaluation-harness, read in the checkpoint's own window.

    Needs `pip install 'ctxext[harness]'`. With --output-dir also eval-harness.json, and the
    harness's full results as harness.json.

    Example: ctxext eval-harness runs/yarn --tasks niah_single_1,hellaswag --limit 100 -o runs/lm
    """
    from ctxext.api.harness import harness

    say_begun("eval-harness", [model], None, quiet=quiet)
    with progress(quiet=quiet) as listen:
        result = harness(
            model,
            tasks=tasks.split(","),
            lengths=parse_lengths(lengths, flag="--lengths", least=1) if lengths else (),
            max_length=parse_length(max_length, flag="--max-length", least=2)
            if max_length
            else None,
            num_fewshot=num_fewshot,
            limit=limit,
            batch_size=batch_size,
            include_path=include_path,
            seed=seed,
            output_dir=output_dir,
            overwrite=overwrite,
            revision=revision,
            tokenizer=tokenizer,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            on_progress=listen,
        )
    if json:
        print_json(result)
    else:
        _render(result)
    say_warnings(result.warnings)
    say_written(result.output_dir, quiet=quiet)


def _render(result: "HarnessResult") -> None:

    columns, rows = harness_table(result.tasks)
    few = "" if result.limit is None else f", the first {result.limit} documents"
    table(
        f"{result.model} in lm-evaluation-harness {result.harness_version} "
        f"(window {show_length(result.window or 0)}{few})",
        columns,
        rows,
    )
