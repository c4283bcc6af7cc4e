"""Check that a run's checkpoint is whole, before anything of it is believed."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from ctxext.errors import BadInput
from ctxext.runs.checked import Broken, printable_text, read_checked
from ctxext.runs.recipe.config import TrainConfig
from ctxext.runs.rows.training import RunState
from ctxext.training.model.lora import trained_tensors

Tensors = Mapping[str, torch.Tensor]

RNG = "rng."
_SHA256 = "sha256"  # of the metadata of a file
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}  # AdamW's
_CUDA_STATE = 16  # bytes of a GPU's generator


def read_numbers(path: Path, step: int) -> RunState:
    """Read a checkpoint's state.json, whose folder is named after `step`.

    Raises:
        Broken: it is not what a run writes, or of another step.
    """
    try:
        state = read_checked(path, None, RunState.from_dict)
    except BadInput as error:
        raise Broken(str(error).replace(f"{path}", path.name)) from error
    if state.step != step:
        raise Broken(f"{path.name} is of step {state.step}")
    if state.skipped > step:
        raise Broken(f"{path.name} left out {state.skipped} of {step} steps")
    return state


def check_counts(state: RunState, train: TrainConfig) -> None:
    """Check that steps, rows and tokens fit each other and the recipe.

    Raises:
        Broken: they do not.
    """
    step = state.step
    # Version 0.1 did not write the rows: it knew one process.
    rows = state.rows_per_step or train.batch_size * train.gradient_accumulation
    if step > train.steps:
        raise Broken(f"step {step} is beyond the {train.steps} of the recipe")
    if state.tokens != step * rows * train.seq_length:
        raise Broken(f"{step} steps of {rows} rows are not {state.tokens} tokens")


def outline(*files: Tensors) -> str:
    """Hash the names, types and shapes of all tensors: this tells whether one was lost."""
    lines = [
        [[name, str(t.dtype), list(t.shape)] for name, t in sorted(file.items())] for file in files
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def contents(tensors: Tensors) -> str:
    """Hash all tensors, their bytes too: this tells whether one was changed."""
    digest = hashlib.sha256(outline(tensors).encode())
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(tensors: dict[str, torch.Tensor], path: Path, **metadata: str) -> str:
    """Write a safetensors file that holds the hash of its contents, and return the hash."""
    from safetensors.torch import save_file

    sha256 = contents(tensors)
    save_file(tensors, path, {_SHA256: sha256, **metadata})
    return sha256


def read_tensors(path: Path, sha256: str | None = None) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file.

    Args:
        sha256: the hash that its contents have to have; None = what it says itself, if it does.

    Raises:
        Broken: it is missing, no regular file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():  # a pipe would be waited for without end
        raise Broken(f"{path.name} is missing")
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            tensors: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in names}
            sha256 = sha256 or (file.metadata() or {}).get(_SHA256)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        # The last four: types and shapes that safetensors takes and torch does not.
        words = printable_text(f"{error}".split("\n")[0])[:200]
        raise Broken(f"{path.name} is damaged: {words}") from error
    if sha256 not in (None, contents(tensors)):
        raise Broken(f"the tensors of {path.name} are not those that were saved")
    return tensors


def check_finite(trained: Tensors, kept: Tensors) -> None:
    """Check that no number of what is trained, or of its moments, is NaN, infinite or impossible.

    Raises:
        Broken: one is.
    """
    for name, tensor in (*trained.items(), *kept.items()):
        if name.startswith(RNG) or not tensor.numel() or tensor.is_complex():
            continue
        low, high = (float(end) for end in tensor.aminmax())  # NaN is both
        key, _, owner = name.partition("|")
        called = f"{key} of {owner}" if owner else name
        if not (math.isfinite(low) and math.isfinite(high)):
            raise Broken(f"{printable_text(called)[:200]} holds numbers that are not finite")
        if key == "exp_avg_sq" and low < 0:
            raise Broken(f"{printable_text(called)[:200]} holds numbers below 0, and has squares")


def check_trained(trained: Tensors, model: nn.Module) -> None:
    """Check that the tensors are those that the model trains: names, shapes and types.

    Raises:
        Broken: one is not.
    """
    parameters = trained_tensors(model)
    if wrong := sorted(set(parameters) ^ set(trained)):
        verb = "is missing" if wrong[0] in parameters else "is not trained"
        raise Broken(f"the tensor {printable_text(wrong[0])[:200]} {verb}")
    for name, parameter in parameters.items():
        _check_like(name, trained[name], parameter)


def check_optimizer(kept: Tensors, model: nn.Module, state: RunState) -> None:
    """Check that the optimizer keeps of each trained tensor all of AdamW's moments or, where it
    never had a gradient, none; and of each rank the state of its random numbers.

    Args:
        kept: moments as `KEY|NAME`, random numbers as `rng.*`.

    Raises:
        Broken: it is not.
    """
    parameters = trained_tensors(model)
    for name in kept:
        key, _, owner = name.partition("|")
        if not name.startswith(RNG) and (key not in _MOMENTS or owner not in parameters):
            raise Broken(f"the optimizer keeps {printable_text(name)[:200]}, which nothing needs")
    moved = 0
    for name, parameter in parameters.items():
        moments = {key: kept[f"{key}|{name}"] for key in _MOMENTS if f"{key}|{name}" in kept}
        if not moments:
            continue
        if missing := _MOMENTS - set(moments):
            raise Broken(f"the optimizer lacks {min(missing)} of {name}")
        for key in ("exp_avg", "exp_avg_sq"):
            _check_like(f"{key} of {name}", moments[key], parameter)
        _check_count(name, moments["step"], state.step)
        moved += 1
    if not moved and state.step > state.skipped:
        raise Broken("the optimizer keeps nothing of the steps done")
    _check_randomness(kept, state.ranks)


def _check_like(name: str, tensor: torch.Tensor, parameter: torch.Tensor) -> None:
    if tensor.shape != parameter.shape:
        raise Broken(f"{name} is {list(tensor.shape)}, and has to be {list(parameter.shape)}")
    if tensor.dtype != parameter.dtype:
        raise Broken(f"{name} is {tensor.dtype}, and has to be {parameter.dtype}")


def _check_count(name: str, tensor: torch.Tensor, step: int) -> None:
    done = float(tensor) if tensor.numel() == 1 and not tensor.is_complex() else math.nan
    if tensor.shape or not tensor.is_floating_point() or not 1 <= done <= step:
        raise Broken(f"the optimizer's count of steps of {name} is not from 1 to {step}")


def _check_randomness(kept: Tensors, ranks: int) -> None:
    for rank in range(ranks):
        if rng_name(rank, "cpu") not in kept:
            raise Broken(f"the random numbers of rank {rank} are missing")
    for name, state in kept.items():
        if not name.startswith(RNG):
            continue
        fits = state.dtype == torch.uint8 and state.ndim == 1
        if name.endswith("cuda"):
            fits = fits and len(state) == _CUDA_STATE
        elif fits:
            try:
                torch.Generator().set_state(state)
            except RuntimeError:
                fits = False
        if not fits:
            raise Broken(f"{printable_text(name)[:200]} is no state of random numbers")


def rng_name(rank: int, device: str) -> str:
    """Name the state of a rank's generator in the optimizer's file."""
    return f"{RNG}{device}" if rank == 0 else f"{RNG}{rank}.{device}"
