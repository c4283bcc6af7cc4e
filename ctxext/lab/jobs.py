"""What one process of the laboratory does at a time: train and measure a decoder, or extend one.

Jobs are plain functions of plain values, so that they can be given to other processes.
"""

import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ctxext.checkpoints.live.quiet import quiet_transformers
from ctxext.lab.extensions import extend_and_train, measured_methods, steps_to_target
from ctxext.lab.measures import Measured, measure, order_change
from ctxext.lab.pairs import ablate
from ctxext.lab.saved import save_decoder
from ctxext.lab.setting import LabSetting
from ctxext.lab.short_training import stream, train_decoder
from ctxext.lab.variants import VARIANTS
from ctxext.runs.rows.lab import AS_TRAINED

_TIMED_STEPS = 21


@dataclass(frozen=True)
class Trained:
    """A decoder that was trained and measured.

    Attributes:
        final_loss: of its training rows, nats; `seconds` is what training took.
        measured: by variant, "" as trained.
        order: by mask, relative changes of each row.
        no_row: whether it refused a position past its window.
    """

    encoding: str
    seed: int
    final_loss: float
    seconds: float
    measured: dict[str, Measured]
    order: dict[str, list[float]]
    no_row: bool


def begin_worker() -> None:
    """Compute with one thread, so that results do not depend on how many processes there are.

    The process ends with the one that started it, killed or not: a worker holds both ends of the
    queue it waits on, and would wait without end.
    """
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def seconds_per_step(setting: LabSetting) -> float:
    """Time the training steps of a run, the mean over its encodings."""
    stream(held_out=False)
    total = 0.0
    for encoding in setting.encodings:
        ends: list[float] = []

        def note(step: int, ends: list[float] = ends) -> None:
            ends.append(time.monotonic())

        train_decoder(setting, encoding, 0, _TIMED_STEPS, on_step=note)
        total += (ends[-1] - ends[0]) / (_TIMED_STEPS - 1)
    return total / len(setting.encodings)


def train_and_measure(
    setting: LabSetting, encoding: str, seed: int, steps: int, folder: Path
) -> Trained:
    """Train a decoder, save it, and measure it as it is and by what can be done to it."""
    began = time.monotonic()
    model, loss = train_decoder(setting, encoding, seed, steps)
    seconds = time.monotonic() - began
    with quiet_transformers():
        save_decoder(model, folder)
    no_row = _refuses_positions(model, setting)
    length = setting.train_length if no_row else None
    measured = {"": measure(model, setting, seed, length=length)}
    for name, variant in VARIANTS.get(encoding, {}).items():
        with variant(model, setting, seed):
            measured[name] = measure(model, setting, seed, ask=False)
    order = {
        mask: order_change(model, setting, seed, causal=mask == "causal")
        for mask in ("causal", "none")
    }
    return Trained(encoding, seed, loss, seconds, measured, order, no_row)


def _refuses_positions(model: Any, setting: LabSetting) -> bool:
    try:
        model(input_ids=torch.zeros(1, setting.train_length + 1, dtype=torch.long))
    except IndexError:
        return True
    return False


def extend_rope(setting: LabSetting, seed: int, folder: Path) -> dict[str, Any]:
    """Extend the RoPE decoder of a seed by every method, and take its pairs apart.

    Args:
        folder: where it was saved.

    Returns:
        `extensions` by method, `pairs` and `steps`, as `extensions` and `pairs` give them.
    """
    from ctxext.lab.decoder import LabForCausalLM

    with quiet_transformers():
        model = LabForCausalLM.from_pretrained(folder).eval()
    names = [AS_TRAINED, *(method.name for method in measured_methods())]
    return {
        "pairs": ablate(model, setting, seed),
        "extensions": {name: extend_and_train(model, setting, seed, name) for name in names},
        "steps": steps_to_target(model, setting, seed),
    }
