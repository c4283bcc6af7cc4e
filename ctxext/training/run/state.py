"""What a killed run needs to go on exactly: adapters, optimizer, randomness, place in the data.

`OUT/checkpoints/step-N/` holds two safetensors files and a JSON file, never a pickle. A folder is
complete or not there; the newest two are kept.

By hand, not by `torch.distributed.checkpoint.state_dict`: with torch 2.13 its collecting took as
long, and restoring from rank 0 alone (`broadcast_from_rank0`) hung between two gloo processes.
"""

import json
import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ctxext.errors import BadInput, CtxextError
from ctxext.machine.launch import Launch
from ctxext.runs.checked import Broken
from ctxext.runs.output import beside
from ctxext.runs.recipe.config import FinetuneConfig, TrainConfig
from ctxext.runs.rows.training import RunState, StepRow
from ctxext.training.model.lora import trained_tensors
from ctxext.training.parallel.sharding import share_of, whole
from ctxext.training.run.state_check import (
    RNG,
    check_counts,
    check_finite,
    check_optimizer,
    check_trained,
    outline,
    read_numbers,
    read_tensors,
    rng_name,
    write_tensors,
)

_KEPT = 2
_STEP = re.compile(r"step-(0|[1-9][0-9]{0,11})")
_STEP_KEY = "step"  # of the metadata of the best step's file
_STATE, _TRAINED, _OPTIMIZER = "state.json", "trained.safetensors", "optimizer.safetensors"
# Keys that may change on the way.
_FREE = re.compile(
    r"(stages\[\d+\]\.)?((memory|parallel)\.|train\.compile$|validation\.keep_best$)"
)

_PLACE = re.compile(r"(stages\[\d+\]\.)?data\.(sources\[\d+\]\.)?source")


@dataclass(frozen=True)
class Saved:
    """A checkpoint of a run, read: tensors on the CPU, and what was wrong with newer ones."""

    state: RunState
    trained: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    problems: tuple[str, ...]


Randomness = Mapping[str, torch.Tensor]
"""States of one rank's generators, by device type."""


def save_state(
    out: Path,
    state: RunState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    launch: Launch | None = None,
) -> Path:
    """Write `checkpoints/step-N` beside its final name, rename it, drop all but the newest two.

    What is sharded is made whole for it, one tensor at a time, and collected on rank 0.

    Args:
        launch: the processes of the run, which all call this together, and rank 0 writes; None =
            this one alone.

    Raises:
        CtxextError: the disk is full, or the state is not finite; the checkpoints before are as
            they were.
    """
    launch = launch or Launch()
    randomness = launch.gather(own_randomness())
    trained = whole_trained(model, keep=launch.main)
    moments = _optimizer_tensors(model, optimizer, keep=launch.main)
    return launch.on_main(lambda: _write(out, state, trained, moments, randomness))


def whole_trained(model: nn.Module, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Collect what is trained, whole and on the CPU, by name; all ranks call it together.

    Args:
        keep: False = this rank only helps the others, and gets nothing.
    """
    out = {}
    for name, parameter in trained_tensors(model).items():
        tensor = whole(parameter.detach())
        if keep:
            out[name] = tensor.cpu().contiguous()
    return out


def _write(
    out: Path,
    state: RunState,
    trained: dict[str, torch.Tensor],
    moments: Mapping[str, torch.Tensor],
    randomness: Sequence[Randomness],
) -> Path:
    root = out / "checkpoints"
    final = root / f"step-{state.step}"
    way_out = "free some space; --resume goes on from the checkpoint before"
    try:
        check_finite(trained, moments)
    except Broken as error:
        raise CtxextError(
            f"step {state.step} is not saved: {error}", "begin again with a lower --lr"
        ) from error
    with beside(final, way_out=way_out) as staging:
        kept = dict(moments)
        for rank, states in enumerate(randomness):
            kept |= {rng_name(rank, device): value for device, value in states.items()}
        whole_state = replace(
            state,
            trained_sha256=write_tensors(trained, staging / _TRAINED),
            optimizer_sha256=write_tensors(kept, staging / _OPTIMIZER),
        )
        text = json.dumps(whole_state.to_dict(), indent=2) + "\n"
        (staging / _STATE).write_text(text, encoding="utf-8")
    saved = saved_steps(out)
    kept_steps = [step for step in saved if step <= state.step][-_KEPT:]
    for old in set(saved) - set(kept_steps):  # later ones were damaged, and are made again
        shutil.rmtree(root / f"step-{old}", ignore_errors=True)
    return final


def trained_file(out: Path, step: int) -> Path:
    """Return where the checkpoint of a step holds what was trained: float32 safetensors."""
    return out / "checkpoints" / f"step-{step}" / _TRAINED


def best_file(out: Path) -> Path:
    """Return where a run that keeps its best step holds what was trained then."""
    return out / "checkpoints" / "best" / _TRAINED


def save_best(out: Path, model: nn.Module, launch: Launch, step: int) -> None:
    """Write what is trained after `step` as the best so far; all ranks call this together.

    Raises:
        CtxextError: the disk is full; what was best before is as it was.
    """
    trained = whole_trained(model, keep=launch.main)

    def write() -> None:
        with beside(best_file(out).parent) as staging:
            write_tensors(trained, staging / _TRAINED, **{_STEP_KEY: str(step)})

    launch.on_main(write)


def check_best(out: Path, lines: Iterable[StepRow], step: int) -> None:
    """Check that the best step so far is there, in a run that keeps it and is gone on with.

    Args:
        lines: of the run's log.
        step: after which it goes on.

    Raises:
        BadInput: `checkpoints/best` is missing, cut short, or of another step.
    """
    known = [(at.validation.lowness, at.step) for at in lines if at.validation]
    known = [(loss, at) for loss, at in known if at <= step and math.isfinite(loss)]
    if not known:
        return
    best, kept, problem = min(known)[1], None, ""
    try:
        with safe_open(best_file(out), "pt") as file:
            kept = (file.metadata() or {}).get(_STEP_KEY)
    except FileNotFoundError:
        problem = "is missing"
    except (OSError, SafetensorError):
        problem = "is damaged"
    # One beyond `step` is of a run that was killed, and comes again.
    if kept is not None and kept.isdigit() and int(kept) <= step and int(kept) != best:
        problem = f"holds step {kept}"
    if problem:
        raise BadInput(
            f"--resume with --keep-best: the best step so far is step {best}, and "
            f"{best_file(out).parent} {problem}",
            "add --keep-last to merge the last step instead, or start a new run",
        )


def start_from(
    file: Path,
    model: nn.Module,
    launch: Launch,
    *,
    called: str = "which the next stage begins from",
    way_out: str = "begin the run again, without --resume",
) -> None:
    """Put what a stage before, or the best step, has trained in place of what is there.

    Args:
        file: its `trained_file`, read on rank 0; the others are told a tensor at a time.
        launch: the processes of the run, which all call this together.
        called, way_out: what the file is, and what helps without it, for the error.

    Raises:
        CtxextError: the file is damaged or gone, or holds other tensors than are trained here.
    """
    box: dict[str, torch.Tensor] = {}

    def read() -> None:
        try:
            box.update(read_tensors(file))
            check_trained(box, model)
            check_finite(box, {})
        except Broken as error:
            where = "/".join(file.parts[-4:-1])
            raise CtxextError(
                f"{where}, {called}, cannot be read: {error}",
                way_out,
            ) from error

    launch.on_main(read)
    with torch.no_grad():
        for name, parameter in trained_tensors(model).items():
            parameter.copy_(share_of(launch.on_main(partial(box.__getitem__, name)), parameter))


def saved_steps(out: Path) -> list[int]:
    """List the steps with a complete checkpoint, ascending."""
    root = out / "checkpoints"
    if not root.is_dir():
        return []
    matches = [_STEP.fullmatch(p.name) for p in root.iterdir() if (p / _STATE).exists()]
    return sorted(int(match[1]) for match in matches if match)


def read_state(
    out: Path,
    recipe: Mapping[str, Any],
    data_sha256: str,
    model: nn.Module,
    train: TrainConfig | None = None,
) -> Saved | None:
    """Read the newest checkpoint of a run; one that is damaged is passed over.

    Args:
        model: what is trained: the tensors have to be its own.
        train: the section of the recipe that the numbers have to fit; None = they are not compared.

    Returns:
        None when the run has no checkpoint yet.

    Raises:
        BadInput: another recipe (the differing keys are named) or other data.
        CtxextError: every checkpoint is damaged.
    """
    problems = []
    for step in reversed(saved_steps(out)):
        folder = out / "checkpoints" / f"step-{step}"
        try:
            state = read_numbers(folder / _STATE, step)
            if train is not None:
                check_counts(state, train)
            check_same_run(state, recipe, data_sha256)
            trained = read_tensors(folder / _TRAINED, state.trained_sha256)
            kept = read_tensors(folder / _OPTIMIZER, state.optimizer_sha256)
            check_trained(trained, model)
            check_optimizer(kept, model, state)
            check_finite(trained, kept)
            if state.tensors not in (None, outline(trained, kept)):
                raise Broken("its tensors are not those that were saved")
        except Broken as error:
            problems.append(f"step-{step}: {error}")
            continue
        bare = replace(state, tensors=None, trained_sha256=None, optimizer_sha256=None)
        return Saved(bare, trained, kept, tuple(problems))
    if problems:
        raise CtxextError(
            f"--resume: every checkpoint in {out} is damaged ({problems[0]})",
            "begin again in another folder",
        )
    return None


def restore(
    saved: Saved | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    launch: Launch | None = None,
) -> None:
    """Put a checkpoint back in place, with the random numbers of this rank where it has them.

    Args:
        saved: on rank 0, not read on the others. They are told one parameter at a time and keep
            their share of it: all of a model and its optimizer, once a process, may not fit.
        launch: the processes of the run, which all call this together; None = this one alone.
    """
    launch = launch or Launch()
    keys, states = launch.on_main(partial(_beside_tensors, cast(Saved, saved)))
    for name, parameter in trained_tensors(model).items():
        tensor, moments = launch.on_main(partial(_of_parameter, cast(Saved, saved), name, keys))
        with torch.no_grad():
            parameter.copy_(share_of(tensor, parameter))
        # AdamW keeps its step count on the CPU, the moments where, and cut as, the parameter is.
        optimizer.state[parameter] = {
            key: value if key == "step" else share_of(value, parameter)
            for key, value in moments.items()
        }
    if (name := rng_name(launch.rank, "cpu")) in states:
        torch.set_rng_state(states[name])
    if torch.cuda.is_available() and (name := rng_name(launch.rank, "cuda")) in states:
        torch.cuda.set_rng_state(states[name])


def _beside_tensors(saved: Saved) -> tuple[list[str], dict[str, torch.Tensor]]:
    """Return what the optimizer keeps of a tensor, and the states of all generators."""
    states = {name: v for name, v in saved.optimizer.items() if name.startswith(RNG)}
    keys = {name.partition("|")[0] for name in saved.optimizer if name not in states}
    return sorted(keys), states


def _of_parameter(
    saved: Saved, name: str, keys: Sequence[str]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return one tensor, and what the optimizer kept of it."""
    kept = saved.optimizer
    return saved.trained[name], {
        key: kept[f"{key}|{name}"] for key in keys if f"{key}|{name}" in kept
    }


def own_randomness() -> Randomness:
    """Read the states of this process's generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def newest_state(out: Path) -> RunState | None:
    """Read where the newest readable checkpoint of a run stands, its tensors left alone."""
    for step in reversed(saved_steps(out)):
        try:
            return read_numbers(out / "checkpoints" / f"step-{step}" / _STATE, step)
        except Broken:
            continue
    return None


def check_same_run(state: RunState, recipe: Mapping[str, Any], data_sha256: str) -> None:
    """Check that a checkpoint is of this recipe and these texts.

    Raises:
        BadInput: it is not; the differing keys are named.
    """
    # A key that came with a later version had its default before.
    defaults = flat(FinetuneConfig().to_dict())
    old, new = defaults | flat(state.recipe), defaults | flat(recipe)
    # A run may go on with less memory, compiled, or on more processes: none changes what it trains.
    keys = [k for k in sorted(old | new) if not _FREE.match(k)]
    if state.data_sha256 == data_sha256:  # the same text, wherever it lies now
        keys = [k for k in keys if not _PLACE.fullmatch(k)]
    changed = [k for k in keys if old.get(k) != new.get(k)]
    if changed:
        shown = ", ".join(f"{k} {old.get(k)!r} -> {new.get(k)!r}" for k in changed[:5])
        raise BadInput(
            f"--resume with another recipe: {shown}", "resume with the old one, or start a new run"
        )
    if state.data_sha256 != data_sha256:
        raise BadInput(
            "--resume: --data gives other tokens than when the run began, so the text or the "
            "tokenizer has changed",
            "bring back the old one, or start a new run",
        )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested sections: {"train": {"lr": 1}} -> {"train.lr": 1}, {"a[0].b": 1}."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            out |= flat({f"{key}[{n}]": item for n, item in enumerate(value)}, prefix)
        else:
            out[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return out


def _optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool
) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trained_tensors(model).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensor = whole(torch.as_tensor(value).detach())
            if keep:
                tensors[f"{key}|{name}"] = tensor.cpu().clone()
    return tensors
