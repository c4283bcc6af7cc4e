"""One fine-tuning run: from a loaded checkpoint to an adapter on disk."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctxext.checkpoints.live.head import check_head, without_peft
from ctxext.checkpoints.live.load import device_of, load_model
from ctxext.checkpoints.weights.files import read_weights
from ctxext.machine.launch import Launch
from ctxext.runs.log import StepLog
from ctxext.runs.recipe.config import FULL, HEADS, LORA, ROWS, TEMPERATURE, FinetuneConfig
from ctxext.runs.rows.training import RunState, StepRow
from ctxext.training.attention.documents import separate_documents
from ctxext.training.attention.shifted import use_shifted_attention
from ctxext.training.attention.windows import use_windows
from ctxext.training.memory.compiled import compile_layers
from ctxext.training.memory.switches import fit_memory, loss_chunk_of
from ctxext.training.model.batch import Batch, TrainingRows
from ctxext.training.model.full import train_all
from ctxext.training.model.lora import LossModel, add_adapters, trained_groups
from ctxext.training.model.position_rows import train_rows
from ctxext.training.model.precision import (
    dtype_of_run,
    narrow_embeddings,
    share_adapter_inputs,
    under_autocast,
)
from ctxext.training.model.quantize import quantization
from ctxext.training.model.temperature import train_temperature
from ctxext.training.parallel.context import parallelize_context
from ctxext.training.parallel.mesh import Mesh, make_mesh
from ctxext.training.parallel.sharding import inside, shard_model
from ctxext.training.run.adapter import write_adapter
from ctxext.training.run.failures import explained
from ctxext.training.run.loop import Prepared, train_steps
from ctxext.training.run.optimizer import make_optimizer
from ctxext.training.run.resume import begin_or_resume
from ctxext.training.run.self_check import (
    check_documents,
    check_loss,
    check_rope,
    first_tokens,
    plain_loss,
)
from ctxext.training.run.setting import Base, Listeners, StartReport, Where
from ctxext.training.run.state import (
    best_file,
    flat,
    save_best,
    save_state,
    start_from,
    trained_file,
)
from ctxext.training.run.stop import StopRequest
from ctxext.training.run.trackers import finish_tracker, logging_folder, start_tracker
from ctxext.training.run.validation import ValidationRows, Validator, lowest, validate


@dataclass(frozen=True)
class Trained:
    """How a run ended.

    Attributes:
        adapter: its folder; None where none was trained.
        tensors: what was trained, in the newest checkpoint of the run.
        log: its lines, on rank 0.
    """

    adapter: Path | None
    tensors: Path
    state: RunState
    log: tuple[StepRow, ...]


def train_adapter(
    base: Base,
    rows: TrainingRows,
    config: FinetuneConfig,
    where: Where,
    listeners: Listeners,
    stop: StopRequest,
) -> Trained:
    """Train on packed rows and write `out/adapter`, `out/log.jsonl`, `out/checkpoints`.

    Unless adapters are what is trained (`train.what`) there is none; the newest checkpoint of the
    run holds the weights.

    Args:
        rows: the data, of `config.train.seq_length` tokens each.
        config: `config.train.seq_length` is set.
        stop: a signal that asks for an early end; the run is saved then.

    Raises:
        BadInput: `--resume` of another run, ranks that cannot share the work, a model whose
            documents cannot be kept apart.
        CtxextError: a failed self-check, too many steps in a row left out, out of memory.
    """
    train, launch = config.train, where.launch
    config.parallel.check(launch.ranks, train.seq_length)
    mesh = make_mesh(launch, config.parallel.context)
    torch.manual_seed(train.seed)
    loaded = _load(base, config, where)
    parameters = sum(p.numel() for p in loaded.model.parameters())
    model, about = _attach(loaded, base, config)
    # First of all the weights go where they stay: no device may hold a sharded model before.
    shared = _share_out(model, launch, config.parallel.shard, loaded.accelerator)
    with explained(config, launch, half=loaded.half), loaded.accelerator.autocast():
        # Nothing is switched on yet: this loss is transformers' own, and all below is held to it.
        first = first_tokens(rows.batch(0, 1), mesh).to(loaded.accelerator.device)
        inside(model, partial(check_head, ids=first.input_ids, name=base.source.name))
        plain = plain_loss(model, first) if train.self_check else None
        # Attention before the switches: how much memory is left for them depends on it.
        _use_attention(model, mesh, rows, config, first)
        plan = fit_memory(model.model, config, launch, loaded.width)
        # Before a checkpoint is put back: the plain loss is that of what was initialised.
        difference = None if plain is None else check_loss(model, first, plain, mesh)
    optimizer = make_optimizer(model, config)
    state = begin_or_resume(where, config, rows.sha256, mesh, model, optimizer, listeners.note)
    check_rope(model, base.position)
    if train.compile:  # after the self-check, whose short row would be compiled too
        compile_layers(model.model)
    if listeners.start is not None and launch.main:
        notes = (*loaded.notes, *about, *plan.notes, *_cost(rows, config, state))
        groups = tuple(trained_groups(model))
        listeners.start(StartReport(
            groups, parameters, train.steps, state.rows_per_step, rows.rows.seq_length,
            rows.rows.rows, state.step, difference, notes,
        ))  # fmt: skip
    prepared = Prepared(shared, model, optimizer, rows, loaded.accelerator, mesh)
    with explained(config, launch, half=loaded.half):
        state, log = _loop(prepared, config, state, where, listeners, stop)
    adapter = _leave_adapter(model, config, state, base, where)
    return Trained(adapter, trained_file(where.out, state.step), state, log)


def _leave_adapter(
    model: LossModel, config: FinetuneConfig, state: RunState, base: Base, where: Where
) -> Path | None:
    """Write the adapter of the last step, or of the best; None where none was trained."""
    if config.train.what != LORA:
        return None
    if config.validation.keep_best and state.step == config.train.steps:
        start_from(
            best_file(where.out), model, where.launch, called="which holds the best step",
            way_out="--resume --keep-last merges the last step instead",
        )  # fmt: skip
    write_adapter(model, where.out / "adapter", base, where.launch)
    return where.out / "adapter"


def _cost(rows: TrainingRows, config: FinetuneConfig, state: RunState) -> list[str]:
    """Say what is measured on the way, and what part of the run's arithmetic that is.

    A pass that only reads is a third of one that trains adapters with everything recomputed, and
    about that of any other.
    """
    if rows.validation is None:
        return []
    train, count = config.train, len(rows.validation)
    wanted = config.validation
    every = wanted.steps_between(train.steps)
    share = wanted.times(train.steps) * count / 3 / (train.steps * state.rows_per_step)
    read = f"{count} row{'s' * (count > 1)} " + (
        "of --eval-data" if wanted.source else "held out of --data"
    )
    often = " and after each" if every == 1 else f", every {every} steps and after the last"
    if every >= train.steps:
        often = " and after the last"
    work = f"{share:.0%}" if share >= 0.01 else "less than 1%"
    notes = [f"validation: {read}, read before the first step{often}: about {work} more work"]
    if train.pose_target > train.seq_length:
        notes.append(
            f"validation reads its rows at positions 0 to {train.seq_length}: it does not tell how "
            f"the model reads up to train.pose_target, {train.pose_target}; eval-ppl does"
        )
    if rows.separate:
        notes.append("validation reads each row as one text, documents not apart")
    return notes


@dataclass(frozen=True)
class _Loaded:
    """A loaded model, and how its numbers are held.

    Attributes:
        half: it computes in bfloat16, under autocast.
        width: bytes of a number that it computes with.
        notes: sentences about the choice of dtypes.
    """

    model: Any
    accelerator: Any
    half: bool
    width: int
    notes: tuple[str, ...]


def _load(base: Base, config: FinetuneConfig, where: Where) -> _Loaded:
    """Load the checkpoint, on its device unless it will be shared out among processes."""
    from accelerate import Accelerator
    from accelerate.utils import AutocastKwargs

    train, sharded = config.train, config.parallel.shard > 1
    device = device_of(where.device, where.launch)
    dtypes = dtype_of_run(where.dtype, base.source, base.position, device, train)
    model = load_model(
        base.source, base.position, dtype=dtypes.load, device=device, in_host_memory=sharded,
        trust_remote_code=where.trust_remote_code, quantization=quantization(train.quantize),
    )  # fmt: skip
    half = under_autocast(dtypes, model.dtype)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if half else "no",
        log_with=where.report_to,
        project_dir=logging_folder(where.out),
        # Casts that are kept until the step ends would be whole weights of every layer.
        kwargs_handlers=[AutocastKwargs(cache_enabled=not sharded)],
    )
    width = 2 if half else model.dtype.itemsize
    return _Loaded(model, accelerator, half, width, dtypes.notes)


def _attach(loaded: _Loaded, base: Base, config: FinetuneConfig) -> tuple[LossModel, list[str]]:
    """Make trainable what the recipe trains, and put the loss on top; with sentences about it."""
    model = loaded.model
    what, notes = config.train.what, []
    if what == FULL:
        wrapped = train_all(model, read_weights(base.source.folder))
    elif what == ROWS:
        wrapped, note = train_rows(model, base.source, base.position, half=loaded.half)
        notes.append(note)
    elif what in (TEMPERATURE, HEADS):
        weights = read_weights(base.source.folder)
        wrapped = train_temperature(model, weights, base.position, per_head=what == HEADS)
    else:
        wrapped = add_adapters(model, config.lora, base.name)
    if loaded.half:
        share_adapter_inputs(wrapped)
        narrow_embeddings(model)
    return LossModel(wrapped, loss_chunk_of(wrapped, config)).train(), notes


def _share_out(model: LossModel, launch: Launch, shard: int, accelerator: Any) -> Any:
    """Let the ranks average their gradients: each with all weights (DDP), or with a share of them.

    Returns:
        What a training step calls; `model` is inside, or the same.
    """
    if shard > 1:
        return shard_model(model, launch, shard, accelerator.device)
    return accelerator.prepare(model)


def _use_attention(
    model: LossModel, mesh: Mesh, rows: TrainingRows, config: FinetuneConfig, first: Batch
) -> None:
    """Let the layers attend as the rows and the ranks want it; `first` is the first row's begin.

    Raises:
        BadInput: the model's attention cannot be replaced so.
    """
    decoder, device = without_peft(model.model), first.input_ids.device
    if mesh.context_group is not None:
        parallelize_context(decoder, mesh)  # which keeps documents apart by itself
    elif rows.separate:
        separate_documents(decoder, device)
        check_documents(model, first)
    else:
        use_windows(decoder, device, config.train.seq_length)
    if config.train.attention == "s2":
        use_shifted_attention(decoder)


def _validator(
    prepared: Prepared, config: FinetuneConfig, where: Where, best: float
) -> Validator | None:
    """Make what measures the run on the way, where its recipe asks for it."""
    ids, model = prepared.rows.validation, prepared.plain
    if ids is None:
        return None
    measure = partial(
        validate, model, ValidationRows(ids), prepared.mesh, prepared.accelerator,
        batch_size=config.train.batch_size, chunk=model.loss_chunk,
    )  # fmt: skip
    keep = partial(save_best, where.out, model, where.launch)
    return Validator(measure, config.validation, config.train.steps, keep, best)


def _loop(
    prepared: Prepared,
    config: FinetuneConfig,
    state: RunState,
    where: Where,
    listeners: Listeners,
    stop: StopRequest,
) -> tuple[RunState, tuple[StepRow, ...]]:
    """Train from `state` on, with a log and a tracker around it; the log is rank 0's."""
    launch, out = where.launch, where.out
    start_tracker(prepared.accelerator, where.run_name or out.name, flat(config.to_dict()))
    log = (
        StepLog(out / "log.jsonl", state.step, listeners.log, listeners.note)
        if launch.main
        else None
    )
    best = launch.on_main(lambda: lowest(log.lines if log is not None else ()))
    try:
        state = train_steps(
            prepared,
            config.train,
            state,
            log=log,
            save=lambda now: save_state(out, now, prepared.plain, prepared.optimizer, launch),
            stop=stop,
            listeners=listeners,
            validator=_validator(prepared, config, where, best),
        )
    finally:
        if log is not None:
            log.close()
    finish_tracker(prepared.accelerator)
    return state, tuple(log.lines) if log else ()
