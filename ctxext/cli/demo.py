"""The command `ctxext demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._output import out, print_json, table
from ctxext.cli._progress import progress
from ctxext.errors import BadInput
from ctxext.report.tables.perplexity import by_position_table
from ctxext.report.tables.retrieval import copying_table

if TYPE_CHECKING:
    from ctxext.runs.rows.demo import DemoResult

_BASE = "The embedded base"


def command(
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Folder to write.")
    ] = Path("runs/demo"),
    budget: Annotated[
        float | None,
        typer.Option(
            "--budget",
            metavar="N",
            help="Minutes, roughly: scales the training steps. [default: 3; 30 with --train-base]",
        ),
    ] = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    train_base: Annotated[
        bool,
        typer.Option(
            "--train-base",
            help="Train the embedded base itself anew (half an hour).",
            rich_help_panel=_BASE,
        ),
    ] = False,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="With --train-base: an earlier base to go on with.",
            rich_help_panel=_BASE,
        ),
    ] = None,
) -> None:
    """The whole job in minutes: no network, no download, no GPU.

    A byte-level Llama that ships with ctxext (window 256) is read at 2048 tokens: it collapses, is
    extended with linear, NTK and YaRN, two of these are fine-tuned with LoRA, and everything is
    measured on text that nothing was trained on. Ends with OUT/report.html.

    Example: ctxext demo --output-dir runs/demo
    """
    if train_base:
        from ctxext.api.train_base import train_base as train

        with progress(quiet=quiet) as listen:
            base = train(
                output_dir, start=from_, budget=budget, seed=seed, overwrite=overwrite,
                on_progress=listen,
            )  # fmt: skip
        if json:
            print_json(base)
        else:
            out().print(f"base trained: {base.output_dir}")
        return
    if from_ is not None:
        raise BadInput("--from is for --train-base")
    from ctxext.api.demo import demo

    with progress(quiet=quiet) as listen:
        result = demo(output_dir, budget=budget, overwrite=overwrite, seed=seed, on_progress=listen)
    if json:
        print_json(result)
    else:
        _render(result)


def _render(result: "DemoResult") -> None:

    columns, rows = by_position_table(result.by_position)
    table("perplexity by position (trained window 256, target 2048, held-out text)", columns, rows)
    columns, rows = copying_table(result.copying)
    table("a planted string copied from so many tokens back, in rows of 2048", columns, rows)
    console = out()
    difference = result.merged_check.max_relative_difference if result.merged_check else None
    console.print(
        f"\nLoRA: {result.lora_steps} steps of 2 x 2048 tokens each for linear and YaRN. The "
        "merged checkpoint, loaded by plain transformers, gives the perplexity of base + adapter "
        f"to {difference or 0:.0e}."
    )
    console.print(
        f"{result.seconds or 0:.0f} s. Plot: {result.output_dir}/demo.png, report: "
        f"{result.output_dir}/report.html",
    )
