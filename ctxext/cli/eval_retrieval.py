"""The command `ctxext eval-retrieval`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._evaluation import say_begun, say_written
from ctxext.cli._output import out, print_json, say_failed, say_note, say_warnings, table
from ctxext.cli._progress import progress
from ctxext.cli._stopped import kept_in
from ctxext.errors import BadInput
from ctxext.lengths import parse_length, show_length
from ctxext.machine.launch import environment_rank
from ctxext.report.findings.differences import by_accuracy, differences
from ctxext.report.findings.groups import RetrievalGroup
from ctxext.report.tables.retrieval import (
    accuracy_difference_table,
    accuracy_table,
    choice_table,
    effective_table,
    share_note,
    unsolved_note,
)
from ctxext.report.tables.text import percent
from ctxext.runs.rows.retrieval import Score

if TYPE_CHECKING:
    from ctxext.runs.rows.retrieval import RetrievalResult

_SCORING = "Scoring"


def command(
    models: options.Models,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            metavar="NAMES",
            help="copy, passkey, needle, multi-key, multi-value, multi-query, key-value, tracing, "
            "or all; with commas.",
        ),
    ] = "passkey",
    lengths: Annotated[
        str | None,
        typer.Option(
            "--lengths",
            metavar="LENGTHS",
            help="Tokens of prompt and answer, with commas. [default: from a quarter of the "
            "trained window, doubling, up to the claimed one]",
        ),
    ] = None,
    depths: Annotated[
        str,
        typer.Option(
            "--depths", metavar="N,N,...", help="Where the needle stands: 0 beginning, 1 end."
        ),
    ] = "0,0.25,0.5,0.75,1",
    samples: Annotated[
        int,
        typer.Option(
            "--samples",
            metavar="N",
            min=1,
            callback=options.at_most(10**6),
            help="Questions for each length and depth.",
        ),
    ] = 10,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="Text to hide needles in: file, folder, hf:NAME[:config[:split[:field]]], "
            "builtin:python/heldout. [default: RULER's noise]",
        ),
    ] = None,
    seed: options.Seed = 0,
    names: options.Names = None,
    output_dir: options.OutputDir = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    field: options.Field = "text",
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    score: Annotated[
        Score,
        options.word_option("--score", "logprob (any model), or generate (greedy).", _SCORING),
    ] = "logprob",
    threshold: Annotated[
        str,
        typer.Option(
            "--threshold",
            metavar="SHARE",
            help="Of the effective length: a share (RULER: 85.6%), or own:SHARE of the model's "
            "score in its own window.",
            rich_help_panel=_SCORING,
        ),
    ] = "own:0.85",
    prefill_chunk: options.PrefillChunk = None,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Whether far text is used: passkeys, needles and more, over length and depth.

    Works for base models: answers are scored by log-probability. With --output-dir also
    eval-retrieval.json and heat maps (PNG and SVG); a killed run goes on when started again, and a
    finished one takes more models, tasks or lengths.

    Example: ctxext eval-retrieval BASE runs/yarn --tasks copy,passkey --lengths 4k,32k -o runs/r
    """
    from ctxext.api.retrieval import retrieval

    main = environment_rank() == 0
    say_begun("eval-retrieval", models, data, quiet=quiet)
    with kept_in(output_dir, overwrite=overwrite), progress(quiet=quiet) as listen:
        result = retrieval(
            models,
            tasks=[name.strip() for name in tasks.split(",") if name.strip()],
            lengths=options.lengths(lengths),
            names=options.names(names),
            depths=_depths(depths),
            samples=samples,
            score=score,
            threshold=threshold,
            data=data,
            field=field,
            prefill_chunk=(
                parse_length(prefill_chunk, flag="--prefill-chunk", least=1) if prefill_chunk else 0
            ),
            seed=seed,
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


def _depths(text: str) -> list[float]:
    try:
        return [float(depth) for depth in text.split(",") if depth.strip()]
    except ValueError as error:
        raise BadInput(
            f"--depths is {text!r}, and has to be numbers between 0 and 1", "e.g. --depths 0,0.5,1"
        ) from error


def _render(result: "RetrievalResult") -> None:
    group = RetrievalGroup(
        "", result.window, result.threshold,
        results=list(result.results), effective=list(result.effective),
    )  # fmt: skip
    table("right answers over all depths (95 % interval)", *accuracy_table(group))
    choices = choice_table(group)
    if choices[1]:
        table("told from wrong answers, and nats a token gained", *choices)
    answered = [score for score in group.by_length if score.task not in group.unanswered]
    if compared := differences(answered, by_accuracy):
        table("difference of right answers", *accuracy_difference_table(compared))
        out().print(share_note(compared))
    table("up to where it reads", *effective_table(group))
    if group.unsolved:
        out().print(unsolved_note(group))
    for row in result.middle:
        if row.lost:
            out().print(
                f"lost in the middle: {row.model}, {row.task} at {show_length(row.length)}: "
                f"{percent(row.middle)} in the middle, {percent(row.ends)} at the worse end",
            )
