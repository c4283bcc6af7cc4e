"""The training loop, top to bottom."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from ctxext.errors import CtxextError
from ctxext.progress import Note, Progress
from ctxext.runs.log import StepLog, peak_memory_bytes
from ctxext.runs.recipe.config import TrainConfig
from ctxext.training.model.batch import TrainingRows
from ctxext.training.model.lora import trained_tensors
from ctxext.training.parallel.context import context_batch
from ctxext.training.parallel.mesh import Mesh
from ctxext.training.parallel.sharding import gradients_apart, whole
from ctxext.training.run.guard import harm, remembered
from ctxext.training.run.optimizer import RATE_FACTOR
from ctxext.training.run.schedule import learning_rate
from ctxext.training.run.state import RunState
from ctxext.training.run.stop import StopRequest
from ctxext.training.run.trackers import report


def train_steps(
    model: Any,
    optimizer: Any,
    rows: TrainingRows,
    config: TrainConfig,
    *,
    state: RunState,
    accelerator: Any,
    log: StepLog | None,
    mesh: Mesh,
    save: Callable[[RunState], None],
    stop: StopRequest,
    on_note: Note,
    on_progress: Progress,
) -> RunState:
    """Run optimizer steps from `state.step` to `config.steps`, saving on the way.

    Args:
        model: a `LossModel`, prepared by accelerate or sharded.
        optimizer: over its trained tensors.
        rows: the data; which rows a step reads depends on its number only.
        state: where to begin, with `rows_per_step` set; the returned state says where it ended.
        log: written by rank 0, None elsewhere.
        mesh: how the ranks share the rows.
        save: called with the state every `config.save_every` steps, at the end, and on a stop.
        stop: a signal that asks for an early end.

    Raises:
        CtxextError: `config.max_skipped` steps in a row had to be left out; the state is saved.
    """
    trained = list(trained_tensors(accelerator.unwrap_model(model)).values())
    per_step = state.rows_per_step
    per_pass = config.batch_size * mesh.data_ranks
    passes = per_step // per_pass
    began, first_step = time.monotonic(), state.step
    for step in range(state.step, config.steps):
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get(RATE_FACTOR, 1.0)
        total = torch.zeros((), device=accelerator.device)
        # Rows hold unequal numbers of targets: those of the whole step, over all ranks, count.
        targets = rows.targets(step * per_step, per_step)
        for part in range(passes):
            first = step * per_step + part * per_pass + mesh.data_rank * config.batch_size
            batch = rows.batch(first, config.batch_size)
            if mesh.context_group is not None:
                batch = context_batch(batch, mesh)
            last = part == passes - 1
            # Gradients meet once a step; DDP and FSDP average over ranks, which the factor undoes.
            apart = nullcontext() if last else gradients_apart(model, accelerator)
            with apart, accelerator.autocast():
                nll = model(batch.to(accelerator.device))
                accelerator.backward(nll * (mesh.launch.ranks / targets))
            total += nll.detach()
        norm = float(whole(clip_grad_norm_(trained, config.max_grad_norm)))
        loss = float(mesh.sum(total)) / targets
        why = harm(loss, norm, state.recent_losses, config.spike_factor)
        if why is None:
            optimizer.step()
            state = replace(state, skipped=0, recent_losses=remembered(state.recent_losses, loss))
        else:
            on_note(f"step {step + 1} is left out: {why}")
            state = replace(state, skipped=state.skipped + 1)
        optimizer.zero_grad(set_to_none=True)

        seconds = time.monotonic() - began
        row_tokens = per_step * rows.seq_length
        state = replace(state, step=step + 1, tokens=state.tokens + row_tokens)
        speed = (step + 1 - first_step) * row_tokens / seconds
        line: dict[str, Any] = {
            "step": step + 1,
            "loss": loss if math.isfinite(loss) else None,
            "grad_norm": norm if math.isfinite(norm) else None,
            "lr": rate,
            "tokens": state.tokens,
            "tokens_per_second": round(speed, 1),
            "peak_memory_bytes": peak_memory_bytes(),
            "seconds": round(seconds, 3),
        }
        if why is not None:
            line["skipped"] = why
        report(accelerator, line)
        if log is not None:
            log.write(line)
            memory = peak_memory_bytes() / 2**30
            detail = f"loss {loss:.3f}, {speed:,.0f} tokens/s, {memory:.1f} GiB"
            on_progress("finetune", step + 1, config.steps, detail)
        if state.skipped == config.max_skipped:
            save(replace(state, skipped=0))  # the weights are still those of the last good step
            raise CtxextError(
                f"{state.skipped} steps in a row had to be left out, the last because {why}",
                "lower --lr or look at the data of these steps; the last good state is saved",
            )
        stopping = mesh.launch.any(stop.signal is not None)
        if stopping or state.step % config.save_every == 0 or state.step == config.steps:
            save(state)
        if stopping:
            break
    return state
