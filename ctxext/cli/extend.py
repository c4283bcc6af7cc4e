"""The command `ctxext extend`."""

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ctxext.cli import _options as options
from ctxext.cli._inspection import show_serving
from ctxext.cli._output import out, print_json, say_warnings, table
from ctxext.lengths import parse_length

if TYPE_CHECKING:
    from ctxext.api.extend import ExtendResult
    from ctxext.checkpoints.weights.gguf_file import GgufChange


def command(
    model: options.Model,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="One of those that ctxext methods lists. [default: yarn; learned tables: "
            "interpolate; other encodings: extrapolate]",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="LENGTH", help="Window to reach, in tokens, e.g. 32k."),
    ] = None,
    factor: Annotated[
        float | None,
        typer.Option("--factor", metavar="N", help="Or: times the trained window."),
    ] = None,
    set_: options.Set = None,
    factors: Annotated[
        Path | None,
        typer.Option(
            "--factors",
            metavar="FILE",
            help="Factors of the pairs for longrope: .json with long_factor, or .csv.",
        ),
    ] = None,
    sliding_window: Annotated[
        str | None,
        typer.Option(
            "--sliding-window",
            metavar="LENGTH",
            help="off, or tokens: for models whose attention slides. [default: as it is]",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Also compare with transformers: its rope, or its logits."),
    ] = False,
    fold_attention_factor: Annotated[
        bool,
        typer.Option(
            "--fold-attention-factor",
            help="Put an attention factor that engines pass over into the weights.",
        ),
    ] = False,
    gguf: Annotated[
        Path | None,
        typer.Option(
            "--gguf",
            metavar="FILE",
            help="Write the rope into a file that llama.cpp converted, too or alone.",
        ),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            "--calibrate",
            metavar="TEXT",
            help="With --method temperature: choose c by perplexity at the target on this "
            "held-out text.",
        ),
    ] = None,
    output_dir: options.OutputDir = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    original_length: options.OriginalLength = None,
    prefer: options.Prefer = None,
    revision: options.Revision = None,
    weights: Annotated[
        Literal["auto", "copy"],
        options.word_option("--weights", "auto (link where possible) or copy.", options.OUTPUT),
    ] = "auto",
) -> None:
    """Write a checkpoint with a longer window; of the weights a learned table alone changes.

    The factor counts from the trained window: 4k to 32k is 8. A checkpoint that is already scaled
    is extended from its original window, not scaled twice; --method none takes the scaling back.

    Example: ctxext extend Qwen/Qwen2.5-7B-Instruct --method yarn --target 128k -o runs/qwen-128k
    """
    from ctxext.api.extend import extend

    result = extend(
        model,
        method=method,
        target=parse_length(target, flag="--target") if target else None,
        factor=factor,
        output_dir=output_dir,
        parameters=options.parse_set(set_),
        factors=factors,
        original_length=parse_length(original_length, flag="--original-length")
        if original_length
        else None,
        prefer=prefer,
        sliding_window=_sliding(sliding_window),
        weights=weights,
        revision=revision,
        overwrite=overwrite,
        dry_run=dry_run,
        check=check,
        fold_attention_factor=fold_attention_factor,
        gguf=gguf,
        calibrate=calibrate,
    )
    if json:
        print_json(result)
    else:
        _render(result)
    say_warnings(result.warnings)


def _short(value: object) -> str:
    """Write a value of a config, of a long list its beginning and its end."""
    if isinstance(value, dict):
        parts = [f"{json_module.dumps(key)}: {_short(each)}" for key, each in value.items()]
        return f"{{{', '.join(parts)}}}"
    if isinstance(value, list) and len(value) > 8:
        return f"[{value[0]}, {value[1]}, ... {value[-1]}]"
    return json_module.dumps(value)


def _sliding(value: str | None) -> int | str | None:
    if value is None:
        return "keep"
    return None if value == "off" else parse_length(value, flag="--sliding-window")


def _shown(value: object) -> str:
    """Write a parameter for people: a list by its length."""
    if isinstance(value, list | tuple):
        return f"of {len(value)} pairs"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _render(result: "ExtendResult") -> None:
    numbers = ", ".join(f"{key} {_shown(value)}" for key, value in result.parameters.items())
    console, window, checked = out(), result.window, result.checked_relative_difference
    console.print(
        f"{result.method}: {window.original:,} -> {window.target:,} tokens ({numbers})",
    )
    rows = [
        (key, _short(before), _short(after)) for key, (before, after) in result.config_diff.items()
    ]
    table("config", ("key", "before", "after"), rows)
    if result.calibration:
        lines = [
            (f"{row.c:g}", f"{row.scale:.4f}", f"{row.perplexity:.4g}")
            for row in result.calibration
        ]
        table("temperatures", ("c", "scores times", "perplexity"), lines)
    if result.table is not None:
        made, left = result.table, len(result.table.left_out)
        console.print(
            f"{made.tensor}: {made.rows_before:,} -> {made.rows_after:,} rows"
            + (f"; {left} stored masks and position ids are left out" if left else "")
        )
    if (change := result.checked_logit_change) is not None:
        console.print(f"logits within the trained window change by {change:.1e} of the largest one")
    if checked is not None:
        console.print(f"transformers' own inv_freq differs by at most {checked:.1e}")
    if result.gguf is not None:
        _render_gguf(result.gguf)
    if result.dry_run:
        console.print("dry run: nothing was written")
    elif result.output_dir is not None:
        console.print(f"{len(result.files)} files, weights {result.weights}: ", end="")
        console.print(str(result.output_dir))
        if result.serving:
            show_serving(result.serving, "serve it with")


def _render_gguf(change: "GgufChange") -> None:
    """Print what a GGUF file says now, or would say."""
    rows = [
        (key, json_module.dumps(before), json_module.dumps(after))
        for key, (before, after) in change.changed.items()
    ]
    table(f"{change.file}", ("key", "before", "after"), rows)
    least, most = min(change.factors), max(change.factors)
    out().print(
        f"{change.file}: rope_freqs.weight, {len(change.factors)} pairs turn {least:g} to {most:g} "
        "times more slowly"
    )
