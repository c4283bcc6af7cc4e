"""One fine-tuning run: from a loaded checkpoint to an adapter on disk."""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctxext.checkpoints.adapter import ROPE_KEY
from ctxext.checkpoints.detect import Position
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.load import DtypeName, load_model
from ctxext.checkpoints.safetensors_file import set_metadata
from ctxext.data.packing import PackedRows
from ctxext.data.tokens import Corpus
from ctxext.errors import CtxextError
from ctxext.progress import Progress, silent
from ctxext.training.config import FinetuneConfig
from ctxext.training.head import check_head
from ctxext.training.log import StepLog
from ctxext.training.loop import train_steps
from ctxext.training.lora import LossModel, TrainedGroup, add_adapters, trained_groups
from ctxext.training.memory import apply_memory, loss_chunk_of, step_memory
from ctxext.training.self_check import check_loss, check_rope
from ctxext.training.state import RunState, load_state, save_state
from ctxext.training.stop import StopRequest


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
    """How a run ended."""

    adapter: Path
    state: RunState
    log: tuple[Mapping[str, Any], ...]


def train_adapter(
    source: Source,
    position: Position,
    corpus: Corpus,
    separator: int | None,
    config: FinetuneConfig,
    out: Path,
    *,
    base_name: str,
    dtype: DtypeName = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    resume: bool = False,
    stop: StopRequest | None = None,
    on_start: Callable[[StartReport], None] | None = None,
    on_progress: Progress = silent,
) -> Trained:
    """Train adapters on packed rows and write `out/adapter`, `out/log.jsonl`, `out/checkpoints`.

    Args:
        source, position: the extended checkpoint.
        corpus: tokenised text.
        separator: end-of-text id put between documents; None = nothing.
        config: `config.train.seq_length` is set.
        out: an existing folder.
        base_name: what the adapter calls its base.
        resume: go on from the newest checkpoint in `out`, if there is one.
        stop: a signal that asks for an early end; the run is saved then.
        on_start: told what is trained before the first step.

    Raises:
        BadInput: too little text, `--resume` of another run.
        CtxextError: a failed self-check, a loss that is not finite.
    """
    from accelerate import Accelerator

    train = config.train
    rows = PackedRows(corpus.stream(separator), train.seq_length, train.seed)
    torch.manual_seed(train.seed)
    base = load_model(source, position, dtype=dtype, trust_remote_code=trust_remote_code)
    half = next(base.parameters()).dtype in (torch.bfloat16, torch.float16)
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if half and device != "cpu" else "no"
    )
    parameters = sum(p.numel() for p in base.parameters())
    wrapped = add_adapters(base, config.lora, base_name)
    plain = LossModel(wrapped, loss_chunk_of(wrapped, config)).train()
    model = accelerator.prepare(plain)
    plan = apply_memory(wrapped, config, least_of_ranks(accelerator, step_memory(wrapped, config)))
    optimizer = torch.optim.AdamW(
        [p for p in plain.parameters() if p.requires_grad],
        lr=train.lr,
        betas=(0.9, 0.95),
        weight_decay=train.weight_decay,
    )
    recipe = config.to_dict()
    data_sha256 = hashlib.sha256(rows.stream.tobytes()).hexdigest()
    state = RunState(0, 0, recipe, data_sha256)
    if resume:
        state = load_state(out, recipe, data_sha256, plain, optimizer) or state
    check_rope(plain, position)
    first = torch.from_numpy(rows.batch(0, 1)).to(accelerator.device)
    check_head(wrapped, first)
    difference = check_loss(plain, first) if train.self_check else None
    read = train.steps * train.batch_size * train.gradient_accumulation * accelerator.num_processes
    if on_start is not None and accelerator.is_main_process:
        on_start(
            StartReport(
                tuple(trained_groups(plain)),
                parameters,
                rows.rows,
                read / rows.rows,
                state.step,
                difference,
                plan.notes,
            )
        )

    def save(now: RunState) -> None:
        if accelerator.is_main_process:
            save_state(out, now, plain, optimizer)
        accelerator.wait_for_everyone()

    log = StepLog(out / "log.jsonl", after=state.step)
    try:
        state = train_steps(
            model,
            optimizer,
            rows,
            train,
            state=state,
            accelerator=accelerator,
            log=log,
            save=save,
            stop=stop or StopRequest(),
            on_progress=on_progress,
        )
    finally:
        log.close()
    adapter = out / "adapter"
    if accelerator.is_main_process:
        write_adapter(wrapped, adapter, position)
    accelerator.wait_for_everyone()
    return Trained(adapter, state, tuple(log.lines))


def least_of_ranks(accelerator: Any, number: int | None) -> int | None:
    """The smallest of a number over all ranks: they have to decide alike. None if one has none."""
    if accelerator.num_processes == 1:
        return number
    mine = torch.tensor([-1 if number is None else number], device=accelerator.device)
    least = int(accelerator.gather(mine).min())
    return None if least < 0 else least


def write_adapter(wrapped: Any, folder: Path, position: Position) -> None:
    """Write a peft adapter whose metadata carries the hash of the rope it was trained under."""
    if position.rope is None:
        raise CtxextError("an adapter needs a rotary checkpoint")
    staging = folder.with_name(".adapter-tmp")
    shutil.rmtree(staging, ignore_errors=True)
    wrapped.save_pretrained(
        staging,
        safe_serialization=True,
        save_embedding_layers=False,  # else peft asks the Hub; trained ones are saved anyway
    )
    (staging / "README.md").unlink(missing_ok=True)  # peft's template; push writes a real card
    set_metadata(
        staging / "adapter_model.safetensors", {"format": "pt", ROPE_KEY: position.rope.sha256}
    )
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
