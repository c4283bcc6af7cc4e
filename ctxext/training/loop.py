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
from ctxext.progress import Progress
from ctxext.training.batch import TrainingRows
from ctxext.training.config import TrainConfig
from ctxext.training.log import StepLog, peak_memory_bytes
from ctxext.training.lora import trained_tensors
from ctxext.training.optimizer import RATE_FACTOR
from ctxext.training.schedule import learning_rate
from ctxext.training.state import RunState
from ctxext.training.stop import StopRequest


def train_steps(
    model: Any,
    optimizer: Any,
    rows: TrainingRows,
    config: TrainConfig,
    *,
    state: RunState,
    accelerator: Any,
    log: StepLog,
    save: Callable[[RunState], None],
    stop: StopRequest,
    on_progress: Progress,
) -> RunState:
    """Run optimizer steps from `state.step` to `config.steps`, saving on the way.

    Args:
        model: a `LossModel`, prepared by accelerate.
        optimizer: over its trained tensors.
        rows: the data; which rows a step reads depends on its number only.
        state: where to begin; the returned state says where it ended.
        save: called with the state every `config.save_every` steps, at the end, and on a stop.
        stop: a signal that asks for an early end.

    Raises:
        CtxextError: the loss or the gradient is not finite.
    """
    ranks, rank = accelerator.num_processes, accelerator.process_index
    trained = list(trained_tensors(accelerator.unwrap_model(model)).values())
    per_pass = config.batch_size * ranks
    per_step = config.gradient_accumulation * per_pass
    began, first_step = time.monotonic(), state.step
    for step in range(state.step, config.steps):
        rate = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get(RATE_FACTOR, 1.0)
        total = torch.zeros((), device=accelerator.device)
        # Rows hold unequal numbers of targets: those of the whole step, over all ranks, count.
        targets = rows.targets(step * per_step, per_step)
        for part in range(config.gradient_accumulation):
            first = (step * config.gradient_accumulation + part) * per_pass
            batch = rows.batch(first + rank * config.batch_size, config.batch_size)
            last = part == config.gradient_accumulation - 1
            # Gradients meet once a step; DDP averages them over ranks, which the factor undoes.
            with nullcontext() if last else accelerator.no_sync(model), accelerator.autocast():
                nll = model(batch.to(accelerator.device))
                accelerator.backward(nll * (ranks / targets))
            total += nll.detach()
        norm = float(clip_grad_norm_(trained, config.max_grad_norm))
        loss = float(accelerator.reduce(total, "sum")) / targets
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise CtxextError(
                f"step {step + 1}: loss {loss} and gradient norm {norm} are not finite",
                "lower --lr; the last checkpoint of the run is good, and --resume starts from it",
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        seconds = time.monotonic() - began
        row_tokens = per_step * rows.seq_length
        state = replace(state, step=step + 1, tokens=state.tokens + row_tokens)
        speed = (step + 1 - first_step) * row_tokens / seconds
        line = {
            "step": step + 1,
            "loss": loss,
            "grad_norm": norm,
            "lr": rate,
            "tokens": state.tokens,
            "tokens_per_second": round(speed, 1),
            "peak_memory_bytes": peak_memory_bytes(),
            "seconds": round(seconds, 3),
        }
        if accelerator.is_main_process:
            log.write(line)
            memory = line["peak_memory_bytes"] / 2**30
            detail = f"loss {loss:.3f}, {speed:,.0f} tokens/s, {memory:.1f} GiB"
            on_progress("finetune", step + 1, config.steps, detail)
        stopping = _any_rank(accelerator, stop.signal is not None)
        if stopping or state.step % config.save_every == 0 or state.step == config.steps:
            save(state)
        if stopping:
            break
    return state


def _any_rank(accelerator: Any, flag: bool) -> bool:
    """Whether any rank was asked to stop: all have to stop after the same step."""
    if accelerator.num_processes == 1:
        return flag
    mine = torch.tensor(int(flag), device=accelerator.device)
    return bool(accelerator.reduce(mine, "sum") > 0)
