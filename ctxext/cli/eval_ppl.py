"""`ctxext eval-ppl`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._output import out, print_json, progress, say_warnings, table
from ctxext.lengths import parse_length, parse_lengths
from ctxext.report.tables import by_length_table, by_position_table

if TYPE_CHECKING:
    from ctxext.pipeline.eval_ppl import PerplexityResult


def command(
    models: Annotated[
        list[str],
        typer.Argument(help="Checkpoint folders or Hub repository ids.", show_default=False),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", help="File, folder, hf:NAME[:config[:split[:field]]], builtin:python/heldout."
        ),
    ],
    lengths: Annotated[
        str, typer.Option("--lengths", help="Window lengths, e.g. 2k,4k,8k.")
    ] = "2k,4k,8k",
    stride: Annotated[
        int, typer.Option("--stride", min=1, help="Tokens between windows (sliding, yarn).")
    ] = 256,
    protocol: Annotated[
        str, typer.Option("--protocol", help="sliding, disjoint or yarn.")
    ] = "sliding",
    tokens: Annotated[
        str | None, typer.Option("--tokens", help="Read only the first so many tokens.")
    ] = None,
    field: Annotated[
        str, typer.Option("--field", help="Field or column with the text (.jsonl, .parquet).")
    ] = "text",
    output_dir: options.OutputDir = None,
    overwrite: options.Overwrite = False,
    revision: options.Revision = None,
    dtype: options.Dtype = "auto",
    device: options.Device = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
) -> None:
    """Perplexity by window length and by position, several checkpoints side by side.

    With --output-dir also eval-ppl.json and a plot of the curves (PNG and SVG).

    Example: ctxext eval-ppl BASE runs/yarn --data book.txt --lengths 4k,16k,32k -o runs/eval
    """
    from ctxext.pipeline.eval_ppl import perplexity

    with progress(quiet=quiet) as listen:
        result = perplexity(
            models,
            data=data,
            lengths=parse_lengths(lengths, flag="--lengths", least=2),
            stride=stride,
            protocol=protocol,  # type: ignore[arg-type]
            tokens=parse_length(tokens, flag="--tokens", least=2) if tokens else None,
            field=field,
            output_dir=output_dir,
            overwrite=overwrite,
            revision=revision,
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


def _render(result: "PerplexityResult") -> None:
    how = f"{result.protocol}, stride {result.stride}"
    columns, rows = by_length_table(result.results)
    table(f"perplexity by window length ({how}, {result.tokens:,} tokens read)", columns, rows)
    columns, rows = by_position_table(result.by_position)
    table("perplexity by position in the longest window", columns, rows)
    if result.output_dir:
        out().print(f"written: {result.output_dir}", markup=False)
