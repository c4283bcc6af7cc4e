"""The command `ctxext finetune`."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctxext.checkpoints.config.dtype import DtypeWord
from ctxext.cli import _options as options
from ctxext.cli._evaluation import say_begun
from ctxext.cli._output import err, out, print_json, say_note, say_warnings, table
from ctxext.cli._progress import progress
from ctxext.errors import BadInput
from ctxext.lengths import counted, parse_length, show_length
from ctxext.machine.launch import environment_rank
from ctxext.runs.recipe.config import FinetuneConfig
from ctxext.runs.rows.training import ValidationSummary, shown_loss

if TYPE_CHECKING:
    from pathlib import Path

    from ctxext.api.finetune import FinetuneResult


_FIRST = "Extend first"
_STEPS = "Steps and learning rate"
_GPUS = "Several GPUs"
_VALIDATION = "Validation"
_PLAN = "With --dry-run"
_DEFAULTS = FinetuneConfig()


def _setting(
    flag: str, key: str, text: str, metavar: str, panel: str | None = None, default: str = ""
) -> Any:
    """Make an option that sets a key of the recipe, and show what counts where nothing sets it."""
    section, _, name = key.partition(".")
    value: Any = getattr(getattr(_DEFAULTS, section), name)
    if isinstance(value, bool):
        value = "yes" if value else "no"
    elif isinstance(value, tuple):
        value = ", ".join(value)
    text = f"{text} [default: {default or value}]"
    return typer.Option(flag, metavar=metavar, help=text, rich_help_panel=panel)


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Checkpoint folder, or a Hub repository id. [default: the recipe's]",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            "--config",
            metavar="FILE",
            help="YAML file, or a shipped recipe by name: extend, data, lora, train, stages, ...",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="SOURCE",
            help="File, folder, hf:NAME[:config[:split[:field]]] or builtin:python.",
        ),
    ] = None,
    seq_length: Annotated[
        str | None,
        _setting(
            "--seq-length", "train.seq_length", "Tokens in a row.", "LENGTH", default="the window"
        ),
    ] = None,
    steps: Annotated[
        int | None, _setting("--steps", "train.steps", "Optimizer steps.", "N")
    ] = None,
    set_: options.Set = None,
    output_dir: options.OutputDir = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --output-dir.")
    ] = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="NAME",
            help="Extend MODEL so before it is trained. "
            "[default: where a length is given yarn, or what extend takes for another encoding]",
            rich_help_panel=_FIRST,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="LENGTH",
            help="Window to extend to. [default: none; MODEL is trained as it is]",
            rich_help_panel=_FIRST,
        ),
    ] = None,
    factor: Annotated[
        float | None,
        typer.Option(
            "--factor",
            metavar="N",
            help="Times the original window, in place of --target.",
            rich_help_panel=_FIRST,
        ),
    ] = None,
    field: Annotated[
        str | None, _setting("--field", "data.field", options.FIELD, "NAME", options.READ)
    ] = None,
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    train: Annotated[
        str | None,
        _setting(
            "--train",
            "train.what",
            "lora, full, position-rows (of a learned table), temperature or head-temperature (of "
            "attention without positions).",
            "WHAT",
            options.TRAINED,
        ),
    ] = None,
    lora_rank: Annotated[
        int | None, _setting("--lora-rank", "lora.rank", "Rank r.", "N", options.TRAINED)
    ] = None,
    lora_alpha: Annotated[
        float | None,
        _setting(
            "--lora-alpha",
            "lora.alpha",
            "Updates are scaled by alpha / rank.",
            "N",
            options.TRAINED,
        ),
    ] = None,
    lora_targets: Annotated[
        str | None,
        _setting(
            "--lora-targets",
            "lora.targets",
            "Linear layers, with commas, or all-linear.",
            "NAMES",
            options.TRAINED,
        ),
    ] = None,
    train_norms: Annotated[
        bool | None,
        _setting(
            "--train-norms/--no-train-norms",
            "lora.train_norms",
            "Norm weights too.",
            "",
            options.TRAINED,
        ),
    ] = None,
    train_embeddings: Annotated[
        bool | None,
        _setting(
            "--train-embeddings/--no-train-embeddings",
            "lora.train_embeddings",
            "Embeddings too.",
            "",
            options.TRAINED,
        ),
    ] = None,
    batch_size: Annotated[
        int | None, _setting("--batch-size", "train.batch_size", "Rows in a pass.", "N", _STEPS)
    ] = None,
    gradient_accumulation: Annotated[
        int | None,
        _setting(
            "--gradient-accumulation",
            "train.gradient_accumulation",
            "Passes in an optimizer step.",
            "N",
            _STEPS,
        ),
    ] = None,
    lr: Annotated[
        float | None, _setting("--lr", "train.lr", "Peak learning rate.", "N", _STEPS)
    ] = None,
    schedule: Annotated[
        str | None,
        _setting(
            "--schedule", "train.schedule", "cosine or constant, after the warm-up.", "NAME", _STEPS
        ),
    ] = None,
    warmup_steps: Annotated[
        int | None,
        _setting(
            "--warmup-steps", "train.warmup_steps", "Optimizer steps of the warm-up.", "N", _STEPS
        ),
    ] = None,
    seed: Annotated[
        int | None, _setting("--seed", "train.seed", "Seed of everything random.", "N", _STEPS)
    ] = None,
    quantize: Annotated[
        str | None,
        _setting(
            "--quantize",
            "train.quantize",
            "4bit: QLoRA, where bitsandbytes and a CUDA device are; or none.",
            "NAME",
            options.MEMORY,
        ),
    ] = None,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Recompute activations: less memory, about a third slower. [default: yes]",
            rich_help_panel=options.MEMORY,
        ),
    ] = False,
    no_gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--no-gradient-checkpointing",
            help="Keep them.",
            rich_help_panel=options.MEMORY,
        ),
    ] = False,
    recompute: Annotated[
        str | None,
        _setting(
            "--recompute",
            "memory.recompute",
            "Layers to recompute: all, none, auto (as needed), or how many.",
            "NAME",
            options.MEMORY,
            default="all; none without gradient checkpointing",
        ),
    ] = None,
    offload: Annotated[
        str | None,
        _setting(
            "--offload",
            "memory.offload",
            "activations: layer inputs lie in host memory; or none.",
            "NAME",
            options.MEMORY,
        ),
    ] = None,
    dtype: options.ComputeDtype = "auto",
    device: options.Device = "auto",
    compile_: Annotated[
        bool | None,
        _setting(
            "--compile/--no-compile",
            "train.compile",
            "torch.compile of the layers: a slow first step, faster ones then.",
            "",
            options.DEVICE,
        ),
    ] = None,
    context_parallel: Annotated[
        int | None,
        _setting(
            "--context-parallel",
            "parallel.context",
            "Processes that hold each row together.",
            "N",
            _GPUS,
        ),
    ] = None,
    shard: Annotated[
        int | None,
        _setting(
            "--shard",
            "parallel.shard",
            "Processes that hold the weights together (FSDP).",
            "N",
            _GPUS,
        ),
    ] = None,
    eval_data: Annotated[
        str | None,
        _setting(
            "--eval-data",
            "validation.source",
            "Text for a validation loss on the way, as --data.",
            "SOURCE",
            _VALIDATION,
            default="rows held out of the training text",
        ),
    ] = None,
    eval_every: Annotated[
        int | None,
        _setting(
            "--eval-every",
            "validation.every",
            "Optimizer steps between validations.",
            "N",
            _VALIDATION,
            default="ten in a run, where a text is given; else no validation",
        ),
    ] = None,
    keep_best: Annotated[
        bool | None,
        _setting(
            "--keep-best/--keep-last",
            "validation.keep_best",
            "Merge the step with the lowest validation loss.",
            "",
            _VALIDATION,
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        _setting(
            "--save-every",
            "train.save_every",
            "Steps between checkpoints of the run.",
            "N",
            options.OUTPUT,
        ),
    ] = None,
    merge_dtype: Annotated[
        DtypeWord,
        options.word_option(
            "--merge-dtype",
            "Of the merged checkpoint: auto (as stored), bfloat16, float16 or float32.",
            options.OUTPUT,
        ),
    ] = "auto",
    report_to: Annotated[
        str | None,
        typer.Option(
            "--report-to",
            metavar="NAME",
            help="trackio, tensorboard, wandb, ... (accelerate's names). [default: none]",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            "--gpu",
            metavar="NAME",
            help="Plan for this card, e.g. h100-80gb. [default: the machine here]",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            metavar="N",
            min=1,
            help="Plan for so many of them. [default: as the recipe needs]",
            rich_help_panel=_PLAN,
        ),
    ] = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Train LoRA adapters on an extended checkpoint, at its length, and merge them.

    Leaves adapter/, merged/, checkpoints/, log.jsonl, loss.png, recipe.yaml and ctxext.json in
    --output-dir. A run that was killed goes on with --resume.

    With --method and --target (a recipe's section `extend`) MODEL is extended first, into
    extended/; a recipe's list `stages` does both several times, e.g. to 32k and then to 128k, each
    stage going on with what was trained.

    --resume -o RUN needs nothing else; what else is said has to be what the run was begun with.

    Flags win over --set, --set over --recipe; the defaults below are of what none of them says.

    --dry-run says before: memory by part, tokens, time, the longest row that fits, and what each
    switch buys; here, or with --gpu h100-80gb --gpus 8 on machines that are not there yet.

    On several GPUs: torchrun --nproc_per_node 8 -m ctxext finetune ... --context-parallel 8

    Example: ctxext finetune runs/yarn --data books/ --seq-length 32k --steps 400 -o runs/yarn-ft
    """
    from ctxext.api.finetune import finetune

    if not dry_run and (gpu is not None or gpus is not None):
        raise BadInput("--gpu and --gpus are read by --dry-run only", "add --dry-run")
    flags: dict[str, Any] = {
        "extend.method": method,
        "extend.target": parse_length(target, flag="--target") if target else None,
        "extend.factor": factor,
        "validation.source": eval_data,
        "validation.every": eval_every,
        "validation.keep_best": keep_best,
        "data.source": data,
        "data.field": field,
        "data.sources": [] if data else None,  # of the recipe: the flag stands in their place
        "train.seq_length": parse_length(seq_length, flag="--seq-length", least=2)
        if seq_length
        else None,
        "train.what": train,
        "train.steps": steps,
        "train.batch_size": batch_size,
        "train.gradient_accumulation": gradient_accumulation,
        "train.lr": lr,
        "train.schedule": schedule,
        "train.warmup_steps": warmup_steps,
        "train.quantize": quantize,
        "train.gradient_checkpointing": _switch(gradient_checkpointing, no_gradient_checkpointing),
        "train.compile": compile_,
        "train.save_every": save_every,
        "train.seed": seed,
        "parallel.context": context_parallel,
        "parallel.shard": shard,
        "memory.recompute": recompute,
        "memory.offload": offload,
        "lora.rank": lora_rank,
        "lora.alpha": lora_alpha,
        "lora.targets": lora_targets,
        "lora.train_norms": train_norms,
        "lora.train_embeddings": train_embeddings,
    }
    begun = output_dir if resume and recipe is None else None
    values = _recipe(recipe, begun, set_, flags, nothing_said=model is None)
    loading: dict[str, Any] = {
        "revision": revision, "tokenizer": tokenizer, "dtype": dtype, "device": device,
        "merge_dtype": merge_dtype, "report_to": report_to, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    if dry_run:
        _plan(model, json=json, recipe=values, gpu=gpu, gpus=gpus, **loading)
        return
    base = _begin(model, values, output_dir, quiet=quiet)
    with progress(quiet=quiet) as listen:
        result = finetune(
            model, output_dir=str(output_dir), recipe=values, resume=resume, overwrite=overwrite,
            on_note=_say_note, on_start=_say_start, on_progress=listen, **loading,
        )  # fmt: skip
    if environment_rank() == 0:
        say_warnings(result.warnings)
        print_json(result) if json else _render(result)
        _say_next(base, result.merged, quiet=quiet)


def _begin(
    model: str | None, values: Mapping[str, Any], output_dir: "Path | None", *, quiet: bool
) -> str:
    """Say what is looked at, and give the model's name as it was typed."""
    if output_dir is None:
        raise BadInput("--output-dir is missing", "say where the run goes, or add --dry-run")
    base = model or str(values.get("model"))
    say_begun("finetune", [base], _text(values), quiet=quiet)
    return base


def _plan(model: str | None, *, json: bool, **asked: Any) -> None:
    """Say what the run would take."""
    from ctxext.api.finetune_plan import plan_finetune
    from ctxext.cli._plan import show_plan

    plan = plan_finetune(model, **asked)
    say_warnings(plan.warnings)
    print_json(plan) if json else show_plan(plan)


def _text(values: Mapping[str, Any]) -> str | None:
    """Name the text of a recipe; None where it names none, or several."""
    data = values.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    return source if isinstance(source, str) and source else None


def _say_next(model: str, merged: str | None, *, quiet: bool) -> None:
    """Say the command that measures what was made, beside what it was made of."""
    if merged is None:
        return
    pair = shlex.join([model, merged])
    say_note(quiet=quiet)(
        f"next, on a text that was not trained on: ctxext eval-ppl {pair} --data TEXT -o DIR"
    )


def _switch(on: bool, off: bool) -> bool | None:
    """Read --gradient-checkpointing, whose pair of names is too long for one line of the help."""
    if on and off:
        raise BadInput("--gradient-checkpointing contradicts --no-gradient-checkpointing")
    return on if on or off else None


def _render(result: "FinetuneResult") -> None:
    """Say what was trained, and where it lies."""
    if result.stopped:
        where = f" in stage {result.stage}" if result.stage else ""
        out().print(
            f"stopped after step {result.steps}{where}, saved; go on with: "
            f"ctxext finetune --resume -o {shlex.quote(result.output_dir)}"
        )
        return
    if result.validation is not None:
        _show_validation(result.validation)
        first = result.validation.first
        kept = result.validation.best if result.validation.kept else result.validation.last
        loss = f"validation loss {shown_loss(first.loss)} -> {shown_loss(kept.loss)}"
    else:
        loss = f"loss {result.mean_loss or 0:.4f} (mean of the last steps)"
    out().print(
        f"{result.steps} steps, {result.tokens:,} tokens, {loss}, "
        f"{result.tokens_per_second or 0:,.0f} tokens/s, peak memory "
        f"{result.peak_memory_bytes / 2**30:.2f} GiB: {result.merged}",
    )


def _show_validation(summary: ValidationSummary) -> None:
    """Print validation before, at its best and at the end: loss by position, and copying."""
    places = [
        f"{show_length(each.start)}-{show_length(each.end)}" for each in summary.first.by_position
    ]
    kept = ", kept" if summary.kept else ""
    measured = {"before": summary.first}
    if summary.best_step == summary.last_step:
        measured[f"step {summary.last_step}, the last and the best{kept}"] = summary.last
    else:
        measured[f"step {summary.best_step}, the best{kept}"] = summary.best
        measured[f"step {summary.last_step}, the last"] = summary.last
    table(
        "validation: nats per token, by position in the row; text of its beginning copied",
        ["", "loss", *places, "copied"],
        [
            [
                name,
                shown_loss(each.loss),
                *(shown_loss(part.loss) for part in each.by_position),
                "-" if each.copied is None else f"{each.copied:.0%}",
            ]
            for name, each in measured.items()
        ],
    )


def _recipe(
    recipe: str | None,
    begun: "Path | None",
    pairs: list[str] | None,
    flags: Mapping[str, Any],
    *,
    nothing_said: bool,
) -> dict[str, Any]:
    """Lay --set and flags over a recipe, or over that of the run that is gone on with.

    Args:
        begun: folder of the run that --resume goes on with.
        nothing_said: no MODEL was typed either, so that the run's recipe has to be there.
    """
    from ctxext.runs.recipe.begun import RECIPE, read_begun
    from ctxext.runs.recipe.reader import find_recipe, override, read_recipe

    values = read_recipe(find_recipe(recipe)) if recipe else {}
    goes_on = begun is not None and (nothing_said or (begun / RECIPE).exists())
    if begun is not None and goes_on:
        values = read_begun(begun)
    values = override(values, options.parse_set(pairs), flag="--set", begun=goes_on)
    said = {key: value for key, value in flags.items() if value is not None}
    return override(values, said, flag="flag", begun=goes_on)


def _say_note(sentence: str) -> None:
    if environment_rank() == 0:
        say_warnings([sentence])


def _share_read(report: Any) -> str:
    """Say how much of the data a run reads."""
    rows = counted(report.rows, "row")
    if report.epochs < 1:
        return f"{100 * report.epochs:.0f} % of the {rows} of the data"
    return f"the {rows} of the data {report.epochs:.1f} times"


def _say_start(report: Any) -> None:
    """Say what is trained, on stderr, before the first step."""
    console = err()
    width = max(len(group.name) for group in report.groups)
    trained = sum(group.parameters for group in report.groups)
    for group in report.groups:
        console.print(
            f"  {group.name:<{width}}  {group.tensors:>4} tensors  {group.parameters:>12,}",
        )
    console.print(
        f"training {trained:,} of {report.parameters:,} parameters in {report.steps:,} steps of "
        f"{counted(report.rows_per_step, 'row')} of {report.row_tokens:,} tokens: "
        f"{report.tokens:,} tokens, {_share_read(report)}"
    )
    if report.loss_difference is not None:
        console.print(
            f"self-check: the loss agrees with transformers' own to {report.loss_difference:.1e}, "
            "and so do frequencies where there is a rope"
        )
    for note in report.notes:
        console.print(note)
    if report.resumed_at:
        console.print(f"resumed at step {report.resumed_at}")
