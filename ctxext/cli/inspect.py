"""The command `ctxext inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._inspection import show_difference, show_inspection
from ctxext.cli._output import print_json, say_note, say_warnings
from ctxext.errors import BadInput
from ctxext.lengths import parse_length


def command(
    model: options.Model,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHER]", help="A second one: what differs is shown.", show_default=False
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="LENGTH",
            help="A window to reach, e.g. 128k: what each method does, memory, and a "
            "recommendation.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE",
            help="Draw the rotary pairs, and with --target what methods do to each, as .png or "
            ".svg.",
        ),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Also see by what a small random model of its class turns (loads torch).",
        ),
    ] = False,
    json: options.Json = False,
    original_length: options.OriginalLength = None,
    prefer: options.Prefer = None,
    revision: options.Revision = None,
) -> None:
    """How a checkpoint encodes position, its window, and what is suspicious in its config.

    Reads the config and the headers of the weights; loads nothing, runs none of its code. With a
    second checkpoint: what differs between the two.

    Example: ctxext inspect meta-llama/Llama-3.2-1B --target 256k
    """
    wanted = parse_length(target, flag="--target") if target else None
    trained = parse_length(original_length, flag="--original-length") if original_length else None
    if other is not None:
        if plot is not None:
            raise BadInput("--plot draws one checkpoint, and two are named", "leave one out")
        if probe:
            raise BadInput("--probe asks of one checkpoint, and two are named", "leave one out")
        from ctxext.api.inspect_difference import inspect_difference

        difference = inspect_difference(
            model, other, target=wanted, revision=revision, original_length=trained, prefer=prefer
        )
        if json:
            print_json(difference)
        else:
            show_difference(difference)
        say_warnings(difference.warnings)
        return
    from ctxext.api.inspect import inspect

    result = inspect(
        model,
        target=wanted,
        revision=revision,
        original_length=trained,
        prefer=prefer,
        probe=probe,
    )
    if plot is not None:
        from ctxext.api.inspect_plot import plot as draw

        draw(result, plot)
        say_note(quiet=False)(f"wavelengths drawn: {plot}")
    if json:
        print_json(result)
    else:
        show_inspection(result)
    say_warnings(result.warnings)
