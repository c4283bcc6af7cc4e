"""The command `ctxext merge`."""

from pathlib import Path
from typing import Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._output import out, print_json, say_warnings
from ctxext.cli._progress import progress
from ctxext.errors import BadInput


def command(
    adapter: Annotated[
        Path,
        typer.Argument(
            metavar="ADAPTER", help="Folder of a peft LoRA adapter.", show_default=False
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="MODEL",
            help="The extended checkpoint that it was trained on. [default: the adapter's]",
        ),
    ] = None,
    output_dir: options.OutputDir = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read a sample of the output back and compute it again."),
    ] = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    dtype: options.Dtype = "auto",
) -> None:
    """Merge an adapter into its base's shards, one tensor in memory at a time.

    The result is bit for bit peft's merge_and_unload: LoRA, rsLoRA, DoRA. Refused when the adapter
    was trained under another rope than the base has.

    Example: ctxext merge runs/x/adapter --base runs/yarn --output-dir runs/x/merged
    """
    from ctxext.api.merge import merge

    if output_dir is None:
        raise BadInput("--output-dir is missing", "say where to write the merged checkpoint")
    with progress(quiet=quiet) as listen:
        result = merge(
            adapter,
            base=base,
            output_dir=output_dir,
            dtype=dtype,
            revision=revision,
            tokenizer=tokenizer,
            overwrite=overwrite,
            verify=verify,
            on_progress=listen,
        )
    if json:
        print_json(result)
    else:
        out().print(
            f"{result.merged_tensors} of {result.tensors} tensors merged, "
            f"{result.bytes / 2**20:,.1f} MiB, peak memory "
            f"{result.peak_memory_bytes / 2**20:,.0f} MiB: {result.output_dir}",
        )
        if result.rounding.relative:
            out().print(
                f"rounded by at most {result.rounding.relative:.1e} of a merged tensor, "
                f"{result.rounding.of_update:.1%} of what training changed in it",
            )
        if result.verified is not None:
            out().print(
                f"verified: {result.verified} of {result.tensors} tensors, changed or not, "
                "computed again from base + adapter"
            )
    say_warnings(result.warnings)
