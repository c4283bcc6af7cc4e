"""`ctxext finetune`: LoRA at the target length, then the adapter merged into a checkpoint."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ctxext.api._arguments import checked
from ctxext.api.extension_plan import planned_window, taken_unasked
from ctxext.api.merge import MergeResult, merge, write_merged
from ctxext.api.resumed_run import check_resumed
from ctxext.api.stage_run import (
    Run,
    StartListener,
    Texts,
    position_skips,
    public_recipe,
    read_texts,
    run_record,
    train_stage,
    trained_on,
)
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.dtype import DtypeWord, check_dtype
from ctxext.checkpoints.config.quantised import read_unquantised
from ctxext.checkpoints.config.windows import Window
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.tensors import check_tensors
from ctxext.checkpoints.opened import Opened, open_checkpoint
from ctxext.checkpoints.provenance import origin_of, read_record, write_record
from ctxext.checkpoints.weights.files import Weights, read_weights, sample_sha256
from ctxext.checkpoints.weights.merge import check_mergeable
from ctxext.checkpoints.weights.position_table import check_table, position_table
from ctxext.checkpoints.weights.safetensors_file import dtype_bytes
from ctxext.checkpoints.weights.still_queries import find_still_queries
from ctxext.checkpoints.weights.trained import read_trained
from ctxext.errors import BadInput, shown
from ctxext.evaluation.texts import check_text, evaluation_text, of_eval_data
from ctxext.machine.launch import Launch, launched, was_launched
from ctxext.progress import Note, Progress, silent, unheard
from ctxext.runs.fields import only_with
from ctxext.runs.output import check_output, locked
from ctxext.runs.recipe.begun import (
    RECIPE,
    RunModel,
    named_by_run,
    settle,
    write_begun,
)
from ctxext.runs.recipe.config import (
    ALL_LINEAR,
    ATTENTION_OF_LLAMA,
    HEADS,
    LORA,
    ROWS,
    TEMPERATURE,
    FinetuneConfig,
)
from ctxext.runs.rows.record import RunRecord
from ctxext.runs.rows.row import Document
from ctxext.runs.rows.training import ValidationSummary, recent_loss, summarised
from ctxext.training.run.stages import (
    Stage,
    drop_checkpoints,
    is_complete,
    joined_log,
    lift,
    named,
    read_summary,
    stages_of,
    to_compare,
    trained_path,
    whole_recipe,
    write_log,
)


@dataclass(frozen=True, kw_only=True)
class FinetuneResult(Document):
    """What `ctxext finetune` made.

    `merged` is None when the run was stopped before its last step, or only planned; `stage` is the
    number of the stage it was stopped in, where its recipe has stages. `final_loss` is the last
    step's alone, `mean_loss` that of the last tenth of the steps.
    """

    schema: ClassVar[str] = "ctxext.finetune/1"
    output_dir: str
    adapter: str | None
    merged: str | None
    steps: int
    tokens: int
    final_loss: float | None
    mean_loss: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int
    stopped: bool
    stage: int | None = None
    warnings: tuple[str, ...] = ()
    validation: ValidationSummary | None = only_with("validation")


@checked
def finetune(
    model: str | None = None,
    *,
    output_dir: str | Path,
    recipe: FinetuneConfig | Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    revision: str | None = None,
    tokenizer: str | None = None,
    dtype: DtypeWord = "auto",
    device: str = "auto",
    merge_dtype: DtypeWord = "auto",
    trust_remote_code: bool = False,
    report_to: str | None = None,
    on_note: Note = unheard,
    on_start: StartListener | None = None,
    on_progress: Progress = silent,
) -> FinetuneResult:
    """Train LoRA adapters on an extended checkpoint, at its length, and merge them.

    A recipe with a section `extend` extends the checkpoint first, into `extended/`; its list
    `stages` does so and trains several times, each time from what was trained before.

    Under `torchrun` or `accelerate launch` all processes call this together: rank 0 alone writes
    and reports, and all return the same.

    Leaves `adapter/`, `merged/`, `checkpoints/step-N/`, `log.jsonl`, `loss.png`, `recipe.yaml`,
    `ctxext.json`.

    Args:
        model: an *extended* checkpoint whose window reaches `train.seq_length`, or, with a section
            `extend`, any; None = the recipe's.
        output_dir: new folder, or with `resume` the folder of the run to go on with.
        recipe: sections `extend`, `data`, `lora`, `train`, `memory`, `parallel`, `loading` and the
            list `stages`, as in a recipe file; or a `FinetuneConfig`; None with `resume` = that of
            the run in `output_dir`.
        tokenizer: folder or repository whose tokenizer reads the data, and goes into `merged/`;
            None = the model's own.
        dtype: of the computation: `auto` = bfloat16 on a GPU, float32 on a CPU.
        merge_dtype: of the merged checkpoint; `auto` = as stored in the base.
        report_to: a tracker that accelerate knows and whose package is installed.
        on_note: told when a step is left out, or a damaged checkpoint passed over.
        on_start: told what is trained (`training.run.setting.StartReport`) before the first step.

    Raises:
        BadInput: anything the user can mend: recipe, data, window, `--resume` of another run.
        CtxextError: a failed self-check, a loss that is not finite, corrupt files, a full disk.
    """
    if resume and overwrite:
        raise BadInput("--resume and --overwrite contradict each other", "leave out one of the two")
    out = Path(output_dir)
    said = RunModel(model, revision, tokenizer, dtype, merge_dtype, report_to)
    asked, recipe = settle(said, recipe, out if resume else None)
    compute = check_dtype(asked.dtype)
    merged = check_dtype(asked.merge_dtype, flag="--merge-dtype")
    stages = stages_of(recipe, out)
    if asked.report_to is not None:
        from ctxext.training.run.trackers import check_tracker

        check_tracker(asked.report_to)
    with launched(device) as launch, ExitStack() as held:

        def look() -> tuple[Opened, tuple[Stage, ...]]:
            with named_by_run(
                out,
                "ctxext finetune MODEL --resume ...",
                asked.model if resume and model is None else None,
            ):
                opened = open_checkpoint(
                    str(asked.model),
                    revision=asked.revision,
                    tokenizer=asked.tokenizer,
                    decoder=True,
                )
            checked = tuple(_checked(stage, opened, launch) for stage in stages)
            if launch.main:
                inputs = (opened.source.folder,)
                check_output(out, overwrite=overwrite or resume, inputs=inputs, begun=RECIPE)
            weights = read_unquantised(opened.source, "train")
            check_mergeable(weights)
            check_targets(checked[0].config, weights)
            check_what(checked[0].config, opened, weights)
            if launch.main:
                held.enter_context(locked(out))
            return opened, checked

        opened, stages = launch.agree(look)
        run = Run(
            launch, asked, opened, out, resume=resume, dtype=compute, device=device,
            merge_dtype=merged, trust_remote_code=trust_remote_code,
            on_note=on_note, on_start=on_start, on_progress=on_progress,
        )  # fmt: skip
        return _run(run, stages)


def _run(run: Run, stages: Sequence[Stage]) -> FinetuneResult:
    launch, out = run.launch, run.out
    if stages[0].config.train.quantize != "none":
        from ctxext.training.model.quantize import check_quantize

        check_quantize(stages[0].config.train.quantize)
    launch.agree(lambda: _check_texts(stages, out if run.resume else None))
    launch.agree(lambda: _check_machine(run, stages))
    for short in short_warmups(stages) if launch.main else ():
        run.on_note(short)
    # Everything that can be known to fail does so here: below, an old run is removed.
    launch.agree(lambda: _check_model(run, stages))
    texts = launch.agree(lambda: read_texts(run, stages))
    recipe = whole_recipe([s.config.to_dict() for s in stages], staged=stages[0].index is not None)

    def begin() -> None:
        if run.resume:
            check_resumed(run, stages, texts, to_compare(recipe))
        else:
            shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        write_begun(out, run.asked, recipe)
        begun = {
            "steps": 0, "tokens": 0, "recipe": public_recipe(stages, texts),
            "base_weights": sample_sha256(run.opened.source.folder),
        }  # fmt: skip
        write_record(out, run_record("finetune", run.opened, begun))

    launch.on_main(begin)

    from ctxext.training.run.stop import graceful_stop

    done: list[Mapping[str, Any]] = []
    with graceful_stop(launched=was_launched(), on_note=run.on_note) as stop:
        start = None
        for stage, text in zip(stages, texts, strict=True):
            if launch.on_main(partial(is_complete, stage)):
                summary: Mapping[str, Any] = launch.on_main(partial(read_summary, stage))
            else:
                summary = train_stage(run, stage, stages, text, recipe, start, stop)
            done.append(summary)
            steps = stage.config.train.steps
            if summary["steps"] < steps or launch.any(stop.signal is not None):
                break
            start = trained_path(stage)
    return launch.on_main(lambda: _finish(run, stages, texts, done))


def _check_texts(stages: Sequence[Stage], begun: Path | None) -> None:
    """Refuse what is wrong with the texts before anything large is imported.

    Args:
        begun: folder of the run that is gone on with.

    Raises:
        BadInput: naming the text, and the stage where there are several.
    """
    for stage in stages:
        with named(stage.name):
            for text in stage.config.data.texts:
                with named_by_run(begun or Path(), "--data TEXT", text.source if begun else None):
                    check_text(text)
            if stage.config.validation.source:
                with of_eval_data():
                    check_text(evaluation_text(stage.config).texts[0])


def _check_machine(run: Run, stages: Sequence[Stage]) -> None:
    """Check that this device computes what the stages ask for, before a model is loaded.

    Raises:
        BadInput: no such device, a dtype that it has not, or no compiler where one is needed.
    """
    from ctxext.checkpoints.live.load import device_of
    from ctxext.training.attention.flex import flex_reason
    from ctxext.training.memory.compiled import check_compile
    from ctxext.training.model.precision import dtype_of_run

    place = device_of(run.device, run.launch)
    opened = run.opened
    for stage in stages:
        config = stage.config
        with named(stage.name):
            dtypes = dtype_of_run(run.dtype, opened.source, opened.position, place, config.train)
            _check_parked(run, config, dtypes.compute, pinned=place.type == "cuda")
            layers = planned_position(config, opened).layers
            reason = flex_reason(config, opened.position.model_type, layers, place.type)
            if config.train.compile:
                check_compile(place)
                return
            if reason:
                check_compile(place, reason, "train on rows no longer than a window, as one stream")
                return


def short_warmups(stages: Sequence[Stage]) -> list[str]:
    """Warn of warm-ups that are longer than their run; a stage is named."""
    from ctxext.training.run.schedule import short_of_peak

    short = [(stage.name, short_of_peak(stage.config.train)) for stage in stages]
    return [f"{name}: {words}" if name else words for name, words in short if words]


def _check_parked(run: Run, config: FinetuneConfig, dtype: str, *, pinned: bool) -> None:
    """Check that host memory holds what `memory.offload` parks, as far as the config tells.

    How many layers `recompute: auto` comes to is known later, and checked then.

    Raises:
        BadInput: it does not.
    """
    from ctxext.machine.host_memory import check_host_memory, parked_bytes
    from ctxext.machine.memory import host_memory

    text = run.opened.config.get("text_config") or run.opened.config
    layers, hidden = text.get("num_hidden_layers"), text.get("hidden_size")
    wanted = config.memory.layers(config.train.gradient_checkpointing)
    if config.memory.offload == "none" or wanted == "auto" or not (layers and hidden):
        return
    train = config.train
    tokens = train.batch_size * train.seq_length // config.parallel.context
    recomputed = min(wanted, layers) if isinstance(wanted, int) else layers
    parked = parked_bytes(recomputed, tokens * hidden * (dtype_bytes(dtype) or 2), pinned=pinned)
    check_host_memory(parked, run.launch.local_ranks, host_memory())


def _finish(
    run: Run,
    stages: Sequence[Stage],
    texts: Sequence[Texts],
    done: Sequence[Mapping[str, Any]],
) -> FinetuneResult:
    """Merge, write the record and make the result, on rank 0."""
    out, now = run.out, stages[len(done) - 1]
    staged = now.index is not None
    stopped = now is not stages[-1] or done[-1]["steps"] < now.config.train.steps
    log = joined_log(stages)
    validation = summarised(
        (line for line in log if line.stage in (None, len(done))),
        keeps_best=now.config.validation.keep_best and not stopped,
    )
    warnings = _warnings(run, stages, texts, validation)
    summary = {
        "steps": sum(each["steps"] for each in done),
        "tokens": sum(each["tokens"] for each in done),
        "final_loss": done[-1]["final_loss"],
        "mean_loss": recent_loss(log).mean,
        **({"validation": validation.to_dict()} if validation else {}),
        "recipe": public_recipe(stages, texts),
        "data": texts[len(done) - 1].data,
        "base_weights": sample_sha256(run.opened.source.folder),
    }
    if staged:
        summary["stages"] = [
            _stage_summary(*each) for each in zip(stages, texts, done, strict=False)
        ]
        write_log(out, log)
    home, merged = now, None
    if not stopped:
        merged = out / "merged"
        if staged:
            lift(now, out)
            home = replace(now, folder=out)
        warnings += _merge(run, now, home, merged, summary).warnings
        drop_checkpoints(stages[:-1])
    write_record(out, run_record("finetune", trained_on(run, home), summary))
    adapter = home.folder / "adapter" if home.config.train.what == LORA else None
    last = log[-1] if log else None
    return FinetuneResult(
        output_dir=str(out),
        adapter=str(adapter) if adapter else None,
        merged=str(merged) if merged else None,
        steps=summary["steps"],
        tokens=summary["tokens"],
        final_loss=summary["final_loss"],
        mean_loss=summary["mean_loss"],
        validation=validation,
        tokens_per_second=last.tokens_per_second if last else None,
        peak_memory_bytes=max((line.peak_memory_bytes or 0 for line in log), default=0),
        stopped=stopped,
        warnings=tuple(dict.fromkeys(warnings)),
        stage=now.index + 1 if now.index is not None and stopped else None,
    )


def _warnings(
    run: Run,
    stages: Sequence[Stage],
    texts: Sequence[Texts],
    validation: ValidationSummary | None,
) -> list[str]:
    """Gather what is to be said at the end of a run."""
    warnings = [*run.opened.warnings, *(w for text in texts for w in text.warnings)]
    if validation is not None and validation.kept and validation.best == validation.first:
        before = "training" if stages[0].index is None else "the last stage"
        warnings.append(
            f"no step had a lower validation loss than there was before {before}, so merged/ is "
            f"the model as it was before {before}: try a lower --lr, or --keep-last"
        )
    if any(stage.config.train.attention == "s2" for stage in stages):
        from ctxext.training.attention.shifted import WARNING

        warnings.append(WARNING)
    return warnings


def _stage_summary(stage: Stage, texts: Texts, done: Mapping[str, Any]) -> dict[str, Any]:
    """Make a line of `training.stages` in ctxext.json."""
    train = stage.config.train
    record = read_record(stage.folder) or RunRecord()
    return {
        **{key: done[key] for key in ("steps", "tokens", "final_loss")},
        "window": record.window.target if record.window else None,
        "method": record.method,
        "parameters": record.parameters,
        "seq_length": train.seq_length,
        "lr": train.lr,
        "data": texts.data,
    }


def _merge(
    run: Run, stage: Stage, home: Stage, merged: Path, summary: Mapping[str, Any]
) -> MergeResult:
    """Write what was trained, adapter or weights themselves, as a checkpoint like the base.

    Args:
        stage: the last one; `home`: the same, where its adapter and its base lie in the end.
    """
    opened = trained_on(run, home)
    if stage.config.train.what == LORA:
        return merge(
            home.folder / "adapter", base=str(opened.source.folder), output_dir=merged,
            dtype=run.merge_dtype, overwrite=True, training=summary, on_progress=run.on_progress,
            tokenizer=str(opened.tokenizer.folder) if opened.tokenizer else None,
        )  # fmt: skip
    from ctxext.training.model.full import PREFIX
    from ctxext.training.model.temperature import read_temperature

    if stage.config.train.what in (TEMPERATURE, HEADS):
        weights = read_weights(opened.source.folder)
        tensors = read_temperature(trained_path(stage), weights, opened.position)
    else:
        tensors = read_trained(trained_path(stage), PREFIX)
    return write_merged(
        opened, tensors, merged, adapter=None, dtype=run.merge_dtype, overwrite=True,
        verify=False, training=summary, warnings=[], on_progress=run.on_progress,
    )  # fmt: skip


def _checked(stage: Stage, opened: Opened, launch: Launch) -> Stage:
    """Fill in a stage's `seq_length`; refuse a window or ranks that do not do.

    Raises:
        BadInput: naming the key, and the stage where there are several.
    """
    with named(stage.name):
        config = at_length(stage.config, opened)
        config.parallel.check(launch.ranks, config.train.seq_length)
        if not config.data.texts:
            raise BadInput("--data is missing", "e.g. --data book.txt or --data builtin:python")
    return replace(stage, config=config)


def window_of(config: FinetuneConfig, opened: Opened) -> Window | None:
    """Tell the window that is trained: the base's, or what section `extend` will make of it.

    Returns:
        None where the base states none.

    Raises:
        BadInput: the base cannot be extended so.
    """
    return planned_position(config, opened).stated_window


def planned_position(config: FinetuneConfig, opened: Opened) -> Position:
    """Tell how the trained checkpoint encodes position: after section `extend`, or the base.

    Raises:
        BadInput: the base cannot be extended so.
    """
    if config.extend is None:
        return opened.position
    where, origin = f"{opened.source.name}/{CONFIG}", origin_of(opened.source.folder)
    return planned_window(opened.config, config.extend, where=where, origin=origin)


def at_length(config: FinetuneConfig, opened: Opened) -> FinetuneConfig:
    """Fill in `seq_length`; refuse one that the rope does not reach.

    What has to lie in the window is the last position: with PoSE the target's, and a row is as long
    as the window that the checkpoint came with.
    """
    window, train, name = window_of(config, opened), config.train, opened.source.name
    if window is None:
        if not train.seq_length or train.pose_target:
            raise BadInput(
                f"{name}/{CONFIG} states no window, so how long rows are has to be said",
                "give --seq-length, without train.pose_target",
            )
        return config
    length = train.seq_length or (window.original if train.pose_target else window.current)
    flag, reach = "--seq-length", length
    if train.pose_target > length:
        flag, reach = "train.pose_target", train.pose_target
    if reach > window.current:
        if config.extend is not None:
            raise BadInput(
                f"{flag} {reach} is beyond the window that extend reaches, {window.current} tokens",
                "extend further, or train on shorter rows",
            )
        raise BadInput(
            f"{flag} {reach} is beyond the window of {name}, {window.current} tokens",
            f"add --method {taken_unasked(opened.position).name} --target {reach} to extend it "
            "first",
        )
    encoding = planned_position(config, opened).encoding
    if train.pose_target and encoding in ("alibi", "none"):
        raise BadInput(
            f"train.pose_target spreads positions, and {name} is told none (its encoding is "
            f"{encoding})",
            "leave it out, and train on rows as long as the window",
        )
    config = replace(config, train=replace(train, seq_length=length))
    position_skips(config)
    return config


def check_what(config: FinetuneConfig, opened: Opened, weights: Weights) -> None:
    """Check that the checkpoint has what `train.what` trains, as far as its files tell.

    Args:
        weights: of the base, which section `extend` leaves alone but for a table's rows.

    Raises:
        BadInput: it has none.
    """
    what = config.train.what
    if what in (TEMPERATURE, HEADS):
        position = planned_position(config, opened)
        queries = find_still_queries(weights, position, what=f"train.what: {what}")
        queries.check(what)
    if what == ROWS:
        check_table(opened.position, opened.source.name)
        position_table(weights, opened.position.model_type)


def _check_model(run: Run, stages: Sequence[Stage]) -> None:
    weights = check_tensors(run.opened.source, trust_remote_code=run.trust_remote_code)
    check_apart(stages[0].config, weights)


def check_apart(config: FinetuneConfig, weights: Weights) -> None:
    """Check that adapters stand on weights that each layer has for itself.

    Args:
        weights: as `check_tensors` returns them.

    Raises:
        BadInput: several layers have one together, so that what each of them is trained to cannot
            be merged.
    """
    targets = config.lora.targets
    for path in weights.shared if config.train.what == LORA else ():
        name = path.rpartition(".")[2]
        norm = "norm" in name.lower()
        adapted = targets == (ALL_LINEAR,) or name in targets
        if config.lora.train_norms if norm else adapted:
            raise BadInput(
                f"{'lora.train_norms' if norm else 'lora.targets'}: several layers have the weight "
                f"of {path} together, and what each is trained to cannot be merged into one",
                "train every weight (--train full), or leave these out"
                + ("" if norm else ": --lora-targets NAMES"),
            )


def check_targets(config: FinetuneConfig, weights: Weights) -> None:
    """Check that `lora.targets` names matrices of the checkpoint; `add_adapters` looks closer.

    Raises:
        BadInput: one is none.
    """
    targets = config.lora.targets
    if config.train.what != LORA or targets in ((ALL_LINEAR,), ATTENTION_OF_LLAMA):
        return
    paths = [
        name.removesuffix(".weight").split(".")
        for name, (_, info) in weights.tensors.items()
        if len(info.shape) == 2 and name.endswith(".weight")
    ]
    known = {".".join(path[-2:] if path[-1].isdigit() else path[-1:]) for path in paths}
    ends = [name.split(".")[-2] for name in (weights.embedding, weights.head)]
    known -= {"lm_head", "embed_tokens", *ends}
    for target in targets:
        if target not in known:
            raise BadInput(
                f"lora.targets names {shown(target)}, which is no linear layer of this model",
                f"it has: {', '.join(sorted(known))}",
            )
