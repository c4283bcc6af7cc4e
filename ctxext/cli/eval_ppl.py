"""The command `ctxext eval-ppl`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._evaluation import say_begun, say_written
from ctxext.cli._output import out, print_json, say_failed, say_note, say_warnings, table
from ctxext.cli._progress import progress
from ctxext.cli._stopped import kept_in
from ctxext.lengths import parse_length
from ctxext.machine.launch import environment_rank
from ctxext.report.findings.differences import by_nll, differences
from ctxext.report.tables.perplexity import (
    PERPLEXITY_NOTE,
    bits_per_byte_table,
    by_length_table,
    by_position_table,
    gain_table,
    key_tokens_table,
    nll_difference_note,
    nll_difference_table,
)
from ctxext.runs.rows.perplexity import Bos, Protocol

if TYPE_CHECKING:
    from ctxext.runs.rows.perplexity import PerplexityResult

_LONGPPL = "LongPPL"


def command(
    models: options.Models,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="File, folder, hf:NAME[:config[:split[:field]]], builtin:python/heldout.",
        ),
    ],
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths",
            metavar="LENGTHS",
            help="Window lengths, with commas. [default: from a quarter of the trained "
            "window, doubling, up to the claimed one]",
        ),
    ] = None,
    stride: Annotated[
        str,
        typer.Option("--stride", metavar="LENGTH", help="Tokens between windows (sliding, yarn)."),
    ] = "256",
    protocol: Annotated[
        Protocol, options.word_option("--protocol", "sliding, disjoint or yarn.")
    ] = "sliding",
    aligned: Annotated[
        bool,
        typer.Option("--aligned", help="Score the same tokens at every length, and nothing else."),
    ] = False,
    names: options.Names = None,
    output_dir: options.OutputDir = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens",
            metavar="LENGTH",
            help="Read only the first so many tokens. [default: all]",
            rich_help_panel=options.READ,
        ),
    ] = None,
    field: options.Field = "text",
    bos: Annotated[
        Bos,
        options.word_option(
            "--bos",
            "tokenizer (where that puts it), or every-window (in place of each window's first "
            "token, as llama.cpp does).",
            options.READ,
        ),
    ] = "tokenizer",
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    key_tokens: Annotated[
        str | None,
        typer.Option(
            "--key-tokens",
            metavar="MODEL",
            help="Also the perplexity of tokens that need far context, by this checkpoint (best a "
            "good long one that is none of those measured).",
            rich_help_panel=_LONGPPL,
        ),
    ] = None,
    key_context: Annotated[
        str | None,
        typer.Option(
            "--key-context",
            metavar="LENGTH",
            help="Tokens of near context. [default: 4k, less for short lengths]",
            rich_help_panel=_LONGPPL,
        ),
    ] = None,
    key_gain: Annotated[
        float,
        typer.Option(
            "--key-gain",
            metavar="N",
            help="Nats that far context has to gain.",
            rich_help_panel=_LONGPPL,
        ),
    ] = 2.0,
    key_loss: Annotated[
        float,
        typer.Option(
            "--key-loss",
            metavar="N",
            help="Nats that the loss with it has to be under.",
            rich_help_panel=_LONGPPL,
        ),
    ] = 2.0,
    prefill_chunk: options.PrefillChunk = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            callback=options.at_most(2**20),
            help="Windows of one length read together. [default: 1, short ones up to 8k tokens]",
            rich_help_panel=options.DEVICE,
        ),
    ] = None,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Perplexity by window length and by position, several checkpoints side by side.

    With --output-dir also eval-ppl.json and a plot of the curves (PNG and SVG); a run that was
    killed goes on when started again, and a finished one takes more models or lengths. Several
    GPUs: `accelerate launch -m ctxext eval-ppl ...`.

    Example: ctxext eval-ppl BASE runs/yarn --data book.txt --lengths 4k,16k,32k -o runs/eval
    """
    from ctxext.api.perplexity import KeyTokens, perplexity

    main = environment_rank() == 0
    near = parse_length(key_context, flag="--key-context", least=1) if key_context else None
    say_begun("eval-ppl", models, data, quiet=quiet)
    with kept_in(output_dir, overwrite=overwrite), progress(quiet=quiet) as listen:
        result = perplexity(
            models,
            data=data,
            lengths=options.lengths(lengths),
            names=options.names(names),
            stride=parse_length(stride, flag="--stride", least=1),
            protocol=protocol,
            aligned=aligned,
            bos=bos,
            batch_size=batch_size,
            key_tokens=KeyTokens(key_tokens, near, key_gain, key_loss) if key_tokens else None,
            prefill_chunk=(
                parse_length(prefill_chunk, flag="--prefill-chunk", least=1) if prefill_chunk else 0
            ),
            tokens=parse_length(tokens, flag="--tokens", least=2) if tokens else None,
            field=field,
            output_dir=output_dir,
            overwrite=overwrite,
            revision=revision,
            tokenizer=tokenizer,
            dtype=dtype,
            device=device,
            trust_remote_code=trust_remote_code,
            on_note=say_note(quiet=quiet),
            on_progress=listen,
        )
    if not main:
        return
    if json:
        print_json(result)
    else:
        _render(result)
    say_warnings(result.warnings)
    say_written(result.output_dir, quiet=quiet)
    measured = {row.length for row in result.results}
    say_failed(result.failed, measured, resumable=output_dir is not None)


def _render(result: "PerplexityResult") -> None:

    columns, rows = by_length_table(result.results)
    table(
        f"perplexity by window length ({result.how_read}, {result.data.tokens:,} tokens read)",
        columns,
        rows,
    )
    out().print(PERPLEXITY_NOTE)
    if compared := differences(result.results, by_nll):
        table("difference of the loss, nats a token", *nll_difference_table(compared))
        out().print(nll_difference_note(compared))
    columns, rows = gain_table(result.results)
    if rows:
        table("nats a token that the longer window gains over the shortest", columns, rows)
    columns, rows = bits_per_byte_table(result.results)
    if rows:
        table("bits per byte of text", columns, rows)
    columns, rows = by_position_table(result.by_position)
    table("perplexity by position in the longest window", columns, rows)
    if result.key_tokens:
        columns, rows = key_tokens_table(result.key_tokens.results)
        reference = result.key_tokens.reference
        table(f"LongPPL: perplexity of tokens that need far context, by {reference}", columns, rows)
