"""One fine-tuning run: from a loaded checkpoint to an adapter on disk."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.dtype import DtypeName
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.head import check_head
from ctxext.checkpoints.live.load import device_of, load_model
from ctxext.checkpoints.weights.adapter import ROPE_KEY
from ctxext.checkpoints.weights.files import ADAPTER_CONFIG, read_weights
from ctxext.checkpoints.weights.safetensors_file import set_metadata
from ctxext.errors import BadInput, CtxextError
from ctxext.machine.available import host_memory
from ctxext.machine.host_memory import check_host_memory
from ctxext.machine.launch import Launch
from ctxext.progress import Note, Progress, silent, unheard
from ctxext.runs.json_file import dump_json, read_json_object
from ctxext.runs.log import LogListener, StepLog
from ctxext.runs.recipe.config import FinetuneConfig, TrainConfig
from ctxext.training.attention.documents import separate_documents
from ctxext.training.attention.shifted import use_shifted_attention
from ctxext.training.attention.windows import use_windows
from ctxext.training.memory.compiled import compile_layers
from ctxext.training.memory.switches import apply_memory, loss_chunk_of, parked_inputs, step_memory
from ctxext.training.model.batch import TrainingRows
from ctxext.training.model.full import train_all
from ctxext.training.model.lora import (
    LossModel,
    TrainedGroup,
    add_adapters,
    trained_groups,
    trained_tensors,
)
from ctxext.training.model.precision import (
    dtype_of_run,
    narrow_embeddings,
    share_adapter_inputs,
    under_autocast,
)
from ctxext.training.model.quantize import quantization
from ctxext.training.parallel.context import parallelize_context, whole_rows
from ctxext.training.parallel.mesh import Mesh, make_mesh
from ctxext.training.parallel.sharding import inside, shard_model
from ctxext.training.run.failures import explained
from ctxext.training.run.loop import train_steps
from ctxext.training.run.optimizer import make_optimizer
from ctxext.training.run.self_check import check_loss, check_rope
from ctxext.training.run.state import (
    RunState,
    Saved,
    flat,
    read_state,
    restore,
    save_state,
    start_from,
    trained_file,
    whole_trained,
)
from ctxext.training.run.stop import StopRequest
from ctxext.training.run.trackers import finish_tracker, logging_folder, start_tracker


@dataclass(frozen=True)
class StartReport:
    """What a run is about to do, told before its first step.

    Attributes:
        groups: what is trained.
        parameters: of the whole model.
        rows: rows of seq_length tokens in one epoch.
        epochs: how often the run reads the data.
        resumed_at: optimizer steps already done.
        loss_difference: of the self-check, relative; None when it was skipped.
        notes: sentences about what was decided for this model and machine.
    """

    groups: tuple[TrainedGroup, ...]
    parameters: int
    rows: int
    epochs: float
    resumed_at: int
    loss_difference: float | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """How a run ended.

    Attributes:
        adapter: its folder; None after full fine-tuning.
        tensors: what was trained, in the newest checkpoint of the run.
        state: where it ended.
        log: its lines.
    """

    adapter: Path | None
    tensors: Path
    state: RunState
    log: tuple[Mapping[str, Any], ...]


def train_adapter(
    source: Source,
    position: Position,
    rows: TrainingRows,
    config: FinetuneConfig,
    out: Path,
    *,
    base_name: str,
    recipe: Mapping[str, Any] | None = None,
    start: Path | None = None,
    run_name: str | None = None,
    dtype: DtypeName = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    resume: bool = False,
    launch: Launch | None = None,
    report_to: str | None = None,
    stop: StopRequest | None = None,
    on_note: Note = unheard,
    on_start: Callable[[StartReport], None] | None = None,
    on_log: LogListener | None = None,
    on_progress: Progress = silent,
) -> Trained:
    """Train on packed rows and write `out/adapter`, `out/log.jsonl`, `out/checkpoints`.

    With `train.what: full` there is no adapter; the newest checkpoint of the run holds the weights.

    Args:
        source, position: the extended checkpoint.
        rows: the data, of `config.train.seq_length` tokens each.
        config: `config.train.seq_length` is set.
        out: an existing folder.
        base_name: what the adapter calls its base.
        recipe: what a resumed run has to agree with; None = `config`. A stage's is the whole run's.
        start: tensors that a stage before has trained (`state.trained_file`), to begin from.
        run_name: what a tracker calls the run; None = the folder's name.
        resume: go on from the newest checkpoint in `out`, if there is one.
        launch: the processes of this run; None = this one alone. All call this together; rank 0
            writes the files, and has the log in what is returned.
        report_to: a tracker that accelerate knows, checked by `trackers.check_tracker`.
        stop: a signal that asks for an early end; the run is saved then.
        on_note: told when a step is left out, or a damaged checkpoint passed over.
        on_start: told what is trained before the first step.
        on_log: told of all steps so far, after each, on rank 0.

    Raises:
        BadInput: `--resume` of another run, ranks that cannot share the work, a model whose
            documents cannot be kept apart.
        CtxextError: a failed self-check, too many steps in a row left out, out of memory.
    """
    from accelerate import Accelerator
    from accelerate.utils import AutocastKwargs

    train, shard = config.train, config.parallel.shard
    launch = launch or Launch()
    config.parallel.check(launch.ranks, train.seq_length)
    mesh = make_mesh(launch, config.parallel.context)
    torch.manual_seed(train.seed)
    place = device_of(device, launch)
    dtypes = dtype_of_run(dtype, source, position, place, train)
    base = load_model(
        source, position, dtype=dtypes.load, device=place, in_host_memory=shard > 1,
        trust_remote_code=trust_remote_code, quantization=quantization(train.quantize),
    )  # fmt: skip
    half = under_autocast(dtypes, base.dtype)
    accelerator = Accelerator(
        cpu=place.type == "cpu",
        mixed_precision="bf16" if half else "no",
        log_with=report_to,
        project_dir=logging_folder(out),
        # Casts that are kept until the step ends would be whole weights of every layer.
        kwargs_handlers=[AutocastKwargs(cache_enabled=shard == 1)],
    )
    if mesh.context_group is not None:
        parallelize_context(base, mesh)  # which keeps documents apart by itself
    elif rows.separate:
        separate_documents(base, accelerator.device)
    else:
        use_windows(base, accelerator.device, train.seq_length)
    parameters = sum(p.numel() for p in base.parameters())
    if train.attention == "s2":
        use_shifted_attention(base)
    if train.what == "full":
        wrapped = train_all(base, read_weights(source.folder))
    else:
        wrapped = add_adapters(base, config.lora, base_name)
    if half:
        share_adapter_inputs(wrapped)
        narrow_embeddings(base)
    plain = LossModel(wrapped, loss_chunk_of(wrapped, config)).train()
    if shard > 1:
        model = shard_model(plain, launch, shard, accelerator.device)
    else:
        model = accelerator.prepare(plain)
    width = 2 if half else base.dtype.itemsize
    free = least_of_ranks(accelerator, step_memory(wrapped, config))
    plan = apply_memory(wrapped, config, free, width)
    if plan.offload:
        parked = parked_inputs(wrapped, config, plan.recomputed, width)
        launch.agree(lambda: check_host_memory(parked, launch.local_ranks, host_memory()))
    optimizer = make_optimizer(plain, config)
    recipe = config.to_dict() if recipe is None else recipe
    per_pass = train.batch_size * mesh.data_ranks
    state = RunState(0, 0, recipe, rows.sha256, per_pass * train.gradient_accumulation)
    if mesh.launch.rank:  # dropout of its own; what was initialised is the same everywhere
        torch.manual_seed(train.seed + _RANK_SEED * mesh.launch.rank)
    if resume:
        state = _resumed(state, out, mesh, train, plain, optimizer, on_note)
    if start is not None and state.step == 0:
        start_from(start, plain, launch)
    state = replace(state, ranks=mesh.launch.ranks)
    check_rope(plain, position)
    with explained(config, mesh.launch, half=half):
        first = rows.batch(0, 1).to(accelerator.device)
        with accelerator.autocast():
            with whole_rows(base) if mesh.context_group is not None else nullcontext():
                inside(plain, partial(check_head, ids=first.input_ids))
            difference = check_loss(plain, first, mesh) if train.self_check else None
    if train.compile:  # now, or the self-check's short row would be compiled too
        compile_layers(wrapped)
    read = train.steps * state.rows_per_step
    if on_start is not None and mesh.launch.main:
        on_start(
            StartReport(
                tuple(trained_groups(plain)),
                parameters,
                rows.rows.rows,
                read / rows.rows.rows,
                state.step,
                difference,
                (*dtypes.notes, *plan.notes),
            )
        )

    def save(now: RunState) -> None:
        save_state(out, now, plain, optimizer, launch)

    start_tracker(accelerator, run_name or out.name, flat(config.to_dict()))
    log = StepLog(out / "log.jsonl", state.step, on_log, on_note) if mesh.launch.main else None
    try:
        with explained(config, mesh.launch, half=half):
            state = train_steps(
                model,
                optimizer,
                rows,
                train,
                state=state,
                accelerator=accelerator,
                mesh=mesh,
                log=log,
                save=save,
                stop=stop or StopRequest(),
                on_note=on_note,
                on_progress=on_progress,
            )
    finally:
        if log is not None:
            log.close()
    finish_tracker(accelerator)
    adapter = out / "adapter" if train.what == "lora" else None
    if adapter is not None:
        write_adapter(plain, adapter, position, launch)
    tensors = trained_file(out, state.step)
    return Trained(adapter, tensors, state, tuple(log.lines) if log else ())


_RANK_SEED = 1_000_003  # apart from the seeds that people choose side by side


def _resumed(
    fresh: RunState,
    out: Path,
    mesh: Mesh,
    train: TrainConfig,
    plain: Any,
    optimizer: Any,
    on_note: Note,
) -> RunState:
    """The newest checkpoint put back in place, on as many processes as there are now.

    A step reads as many rows as it did when the run began: with another number of ranks there are
    more or fewer passes in it.

    Raises:
        BadInput: the rows of a step cannot be shared among these ranks.
    """
    launch = mesh.launch
    box: list[Saved] = []  # rank 0's; the tensors go to the others one by one

    def read() -> tuple[RunState, tuple[str, ...]] | None:
        saved = read_state(out, fresh.recipe, fresh.data_sha256, plain, train)
        if saved is None:
            return None
        box.append(saved)
        return saved.state, saved.problems

    told = launch.on_main(read)
    if told is None:
        return fresh
    state, problems = told
    for problem in problems if launch.main else ():
        on_note(f"a damaged checkpoint is passed over: {problem}")
    restore(box[0] if box else None, plain, optimizer, launch)
    if not state.rows_per_step:  # written by version 0.1, in one process
        state = replace(state, rows_per_step=train.batch_size * train.gradient_accumulation)
    per_pass = train.batch_size * mesh.data_ranks
    if state.rows_per_step % per_pass:
        raise BadInput(
            f"--resume: a step of this run reads {state.rows_per_step} rows, which "
            f"{mesh.data_ranks} ranks with train.batch_size {train.batch_size} cannot share",
            "resume on fewer processes, or with a larger --context-parallel",
        )
    if state.ranks != launch.ranks:
        torch.manual_seed(train.seed + _RANK_SEED * (launch.rank + launch.ranks * (state.step + 1)))
        if launch.main:
            on_note(f"the run had {state.ranks} processes and goes on with {launch.ranks}")
    return state


def least_of_ranks(accelerator: Any, number: int | None) -> int | None:
    """The smallest of a number over all ranks: they have to decide alike. None if one has none."""
    if accelerator.num_processes == 1:
        return number
    mine = torch.tensor([-1 if number is None else number], device=accelerator.device)
    least = int(accelerator.gather(mine).min())
    return None if least < 0 else least


def write_adapter(plain: LossModel, folder: Path, position: Position, launch: Launch) -> None:
    """Write a peft adapter whose metadata carries the hash of the rope it was trained under.

    All ranks call this together; rank 0 writes.
    """
    trained = whole_trained(plain, keep=launch.main)
    launch.on_main(lambda: _write_adapter(plain, trained, folder, position))


def _in_order(file: Path) -> None:
    """Sort what peft keeps in sets, whose order changes from one process to the next."""
    config, _ = read_json_object(file)
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    file.write_text(dump_json(config), encoding="utf-8")


def _write_adapter(
    plain: LossModel, trained: Mapping[str, torch.Tensor], folder: Path, position: Position
) -> None:
    if position.rope is None:
        raise CtxextError("an adapter needs a rotary checkpoint")
    staging = folder.with_name(".adapter-tmp")
    shutil.rmtree(staging, ignore_errors=True)
    names = {id(parameter): name for name, parameter in trained_tensors(plain).items()}
    plain.model.save_pretrained(
        staging,
        state_dict={  # a tied embedding goes by two names
            name: trained[names[id(parameter)]]
            for name, parameter in plain.model.named_parameters(remove_duplicate=False)
            if id(parameter) in names
        },
        safe_serialization=True,
        save_embedding_layers=False,  # else peft asks the Hub; trained ones are saved anyway
    )
    (staging / "README.md").unlink(missing_ok=True)  # peft's template; push writes a real card
    _in_order(staging / ADAPTER_CONFIG)
    set_metadata(
        staging / "adapter_model.safetensors", {"format": "pt", ROPE_KEY: position.rope.sha256}
    )
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
