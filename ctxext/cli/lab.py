"""The command `ctxext lab`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._laboratory import say_laboratory
from ctxext.cli._output import out, print_json, say_note
from ctxext.cli._progress import progress
from ctxext.lengths import counted

if TYPE_CHECKING:
    from ctxext.runs.rows.lab import LabResult

_SIZE = "How much"


def command(
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", metavar="DIR", help="Folder to write.")
    ] = Path("runs/lab"),
    preset: Annotated[
        str,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="train-short-test-long, or smoke: less than a minute, to see that all runs.",
        ),
    ] = "train-short-test-long",
    encodings: Annotated[
        str | None,
        typer.Option(
            "--encodings",
            metavar="NAMES",
            help="With commas. [default: sinusoidal,learned,rope,alibi,none]",
        ),
    ] = None,
    train_length: Annotated[
        str | None,
        typer.Option(
            "--train-length",
            metavar="LENGTH",
            help="Window that decoders are trained at, tokens. [default: 64]",
        ),
    ] = None,
    test_lengths: Annotated[
        str | None,
        typer.Option(
            "--test-lengths",
            metavar="LENGTHS",
            help="With commas; RoPE is extended to the longest. [default: 64,128,256,512]",
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="10m, 90s: fewer seeds and steps, so that it ends in time. [default: all]",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            metavar="N",
            help="Of each encoding; verdicts need two or more. [default: 4]",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            help="Training steps of every decoder, in place of a budget.",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="Processes, one thread each. [default: one for each core]",
            rich_help_panel=_SIZE,
        ),
    ] = None,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Train small decoders short, one for each position encoding, and test them long.

    They are alike but for the encoding, and read the same bytes: program sources with strings that
    come again. Measured are perplexity by position, recall by distance, what the order of tokens
    does, and every RoPE method before and after some LoRA steps. Sentences of the literature get a
    verdict by a paired test over seeds, and may come out false. Ends with OUT/report.html.

    Example: ctxext lab --preset train-short-test-long --budget 10m
    """
    from ctxext.api.lab import run_lab

    with progress(quiet=quiet) as listen:
        result = run_lab(
            output_dir, preset=preset, encodings=encodings, train_length=train_length,
            test_lengths=test_lengths, seeds=seeds, steps=steps, budget=budget, workers=workers,
            seed=seed, overwrite=overwrite, on_progress=listen, on_note=say_note(quiet=quiet),
        )  # fmt: skip
    if json:
        print_json(result)
    else:
        _render(result)


def _render(result: "LabResult") -> None:
    say_laboratory(result)
    out().print(
        f"{len(result.models)} decoders of {result.parameters:,} parameters, "
        f"{counted(result.steps, 'step')} of {result.tokens_per_step} tokens; "
        f"{result.seconds or 0:.0f} s. Decoders: {result.output_dir}/models, "
        f"plot: {result.output_dir}/lab.png, report: {result.output_dir}/report.html"
    )
