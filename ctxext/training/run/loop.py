"""The training loop, top to bottom."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from ctxext.errors import CtxextError
from ctxext.machine.memory import peak_memory_bytes
from ctxext.runs.log import StepLog
from ctxext.runs.recipe.config import TrainConfig
from ctxext.runs.rows.training import RunState, StepRow
from ctxext.training.model.batch import TrainingRows
from ctxext.training.model.lora import LossModel, trained_tensors
from ctxext.training.parallel.context import context_batch
from ctxext.training.parallel.mesh import Mesh
from ctxext.training.parallel.sharding import gradients_apart, whole
from ctxext.training.run.guard import harm, remembered
from ctxext.training.run.optimizer import RATE_FACTOR
from ctxext.training.run.schedule import learning_rate
from ctxext.training.run.setting import Listeners
from ctxext.training.run.stop import StopRequest
from ctxext.training.run.trackers import report
from ctxext.training.run.validation import Validator


@dataclass(frozen=True)
class Prepared:
    """All that an optimizer step computes with.

    Attributes:
        model: `plain` as the ranks share it: wrapped by accelerate, or sharded in place.
        plain: the model with its loss.
        optimizer: over its trained tensors.
        rows: the data; which rows a step reads depends on its number only.
    """

    model: Any
    plain: LossModel
    optimizer: torch.optim.Optimizer
    rows: TrainingRows
    accelerator: Any
    mesh: Mesh


def train_steps(
    prepared: Prepared,
    config: TrainConfig,
    state: RunState,
    *,
    log: StepLog | None,
    save: Callable[[RunState], object],
    stop: StopRequest,
    listeners: Listeners,
    validator: Validator | None = None,
) -> RunState:
    """Run optimizer steps from `state.step` to `config.steps`, saving on the way.

    Args:
        state: where to begin, with `rows_per_step` set; what is returned says where it ended.
        log: written by rank 0, None elsewhere.
        save: called every `config.save_every` steps, at the end, and when `stop` asks for an end.
        validator: measures on other rows on the way; None = nothing is measured.

    Raises:
        CtxextError: `config.max_skipped` steps in a row had to be left out; the state is saved.
    """
    trained, optimizer = list(trained_tensors(prepared.plain).values()), prepared.optimizer
    row_tokens = state.rows_per_step * prepared.rows.seq_length
    if validator is not None and state.step == 0:
        _measure_before(validator, prepared, log)
    began, first_step = time.monotonic(), state.step
    for step in range(state.step, config.steps):
        rate = _set_rate(optimizer, learning_rate(step, config))
        loss = _loss_and_gradients(prepared, config, step, state.rows_per_step)
        norm = float(whole(clip_grad_norm_(trained, config.max_grad_norm)))
        why = harm(loss, norm, state.recent_losses, config.spike_factor)
        if why is None:
            optimizer.step()
            state = replace(state, skipped=0, recent_losses=remembered(state.recent_losses, loss))
        else:
            listeners.note(f"step {step + 1} is left out: {why}")
            state = replace(state, skipped=state.skipped + 1)
        optimizer.zero_grad(set_to_none=True)

        state = replace(state, step=step + 1, tokens=state.tokens + row_tokens)
        seconds = time.monotonic() - began
        speed = (state.step - first_step) * row_tokens / seconds
        line = replace(_line(state, loss, norm, rate, speed, seconds), skipped=why)
        if validator is not None and (measured := validator.at(state.step)) is not None:
            line = replace(line, validation=measured)
            began += measured.seconds or 0.0  # speed is of training alone
        report(prepared.accelerator, line)
        if log is not None:
            log.write(line)
            listeners.progress("finetune", state.step, config.steps, _detail(line, loss))
        if state.skipped == config.max_skipped:
            save(replace(state, skipped=0))  # the weights are still those of the last good step
            raise _too_many_left_out(state.skipped, why)
        stopping = prepared.mesh.launch.any(stop.signal is not None)
        if stopping or state.step % config.save_every == 0 or state.step == config.steps:
            save(state)
        if stopping:
            break
    return state


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> float:
    """Give every group its share of a step's learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(RATE_FACTOR, 1.0)
    return rate


def _measure_before(validator: Validator, prepared: Prepared, log: StepLog | None) -> None:
    """Write down what validation says before the first step."""
    before = StepRow(step=0, loss=None, tokens=0, validation=validator.at(0))
    report(prepared.accelerator, before)
    if log is not None:
        log.write(before)


def _too_many_left_out(steps: int, why: str | None) -> CtxextError:
    return CtxextError(
        f"{steps} steps in a row had to be left out, the last because {why}",
        "lower --lr or look at the data of these steps; the last good state is saved",
    )


def _detail(line: StepRow, loss: float) -> str:
    """Say beside the progress what a step came to."""
    memory = f"{(line.peak_memory_bytes or 0) / 2**30:.1f} GiB"
    return f"loss {loss:.3f}, {line.tokens_per_second or 0:,.0f} tokens/s, {memory}"


def _loss_and_gradients(
    prepared: Prepared, config: TrainConfig, step: int, rows_per_step: int
) -> float:
    """Compute a step's mean loss over all ranks, and leave its gradients in the trained tensors."""
    model, accelerator, mesh = prepared.model, prepared.accelerator, prepared.mesh
    per_pass = config.batch_size * mesh.data_ranks
    passes = rows_per_step // per_pass
    total = torch.zeros((), device=accelerator.device)
    # Rows hold unequal numbers of targets: those of the whole step, over all ranks, count.
    targets = prepared.rows.targets(step * rows_per_step, rows_per_step)
    for number in range(passes):
        first = step * rows_per_step + number * per_pass + mesh.data_rank * config.batch_size
        batch = prepared.rows.batch(first, config.batch_size)
        if mesh.context_group is not None:
            batch = context_batch(batch, mesh)
        last = number == passes - 1
        # Gradients meet once a step; DDP and FSDP average over ranks, which the factor undoes.
        apart = nullcontext() if last else gradients_apart(model, accelerator)
        with apart, accelerator.autocast():
            nll = model(batch.to(accelerator.device))
            accelerator.backward(nll * (mesh.launch.ranks / targets))
        total += nll.detach()
    return float(mesh.sum(total)) / targets


def _line(
    state: RunState, loss: float, norm: float, rate: float, speed: float, seconds: float
) -> StepRow:
    """Write down a step; `speed` is in tokens a second since the process began."""
    return StepRow(
        step=state.step,
        loss=loss if math.isfinite(loss) else None,
        grad_norm=norm if math.isfinite(norm) else None,
        lr=rate,
        tokens=state.tokens,
        tokens_per_second=round(speed, 1),
        peak_memory_bytes=peak_memory_bytes(),
        seconds=round(seconds, 3),
    )
