"""What a killed run needs to go on exactly: adapters, optimizer, randomness, place in the data.

`OUT/checkpoints/step-N/` holds two safetensors files and a JSON file, never a pickle. A folder is
complete or not there; the newest two are kept.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctxext.errors import BadInput, CtxextError
from ctxext.training.lora import load_trained, trained_tensors

_KEPT = 2
_STEP = re.compile(r"step-(\d+)")
_STATE, _TRAINED, _OPTIMIZER = "state.json", "trained.safetensors", "optimizer.safetensors"
_RNG, _TEMPORARY = "rng.", ".tmp-"


@dataclass(frozen=True)
class RunState:
    """Where a run stands: optimizer steps done, tokens seen, and of which recipe and data."""

    step: int
    tokens: int
    recipe: Mapping[str, Any]
    data_sha256: str


def save_state(
    out: Path, state: RunState, model: nn.Module, optimizer: torch.optim.Optimizer
) -> Path:
    """Write `checkpoints/step-N` beside its final name, rename it, drop all but the newest two."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    root = out / "checkpoints"
    root.mkdir(parents=True, exist_ok=True)
    final = root / f"step-{state.step}"
    for leftover in root.glob(f"{_TEMPORARY}*"):  # of a killed run; the output's lock is ours
        shutil.rmtree(leftover, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(dir=root, prefix=_TEMPORARY))
    try:
        trained = {
            name: p.detach().cpu().contiguous() for name, p in trained_tensors(model).items()
        }
        save_file(trained, staging / _TRAINED)
        save_file(_optimizer_tensors(model, optimizer), staging / _OPTIMIZER)
        text = json.dumps(asdict(state), indent=2) + "\n"
        (staging / _STATE).write_text(text, encoding="utf-8")
        if final.exists():
            shutil.rmtree(final)
        staging.rename(final)
    except SafetensorError as error:  # its words for a full disk
        raise CtxextError(f"{final} cannot be written: {error}", "free some space") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for old in saved_steps(out)[:-_KEPT]:
        shutil.rmtree(root / f"step-{old}", ignore_errors=True)
    return final


def saved_steps(out: Path) -> list[int]:
    """Steps with a complete checkpoint, ascending."""
    root = out / "checkpoints"
    if not root.is_dir():
        return []
    found = [_STEP.fullmatch(p.name) for p in root.iterdir() if (p / _STATE).exists()]
    return sorted(int(match[1]) for match in found if match)


def load_state(
    out: Path,
    recipe: Mapping[str, Any],
    data_sha256: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> RunState | None:
    """Put the newest checkpoint of a run back in place; one that is damaged is passed over.

    Returns:
        Where the run stands; None when it has no checkpoint yet.

    Raises:
        BadInput: another recipe (the differing keys are named) or other data.
        CtxextError: every checkpoint is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    problems = []
    for step in reversed(saved_steps(out)):
        folder = out / "checkpoints" / f"step-{step}"
        try:
            state = RunState(**json.loads((folder / _STATE).read_text(encoding="utf-8")))
            trained = load_file(folder / _TRAINED)
            kept = load_file(folder / _OPTIMIZER)
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            problems.append(f"step-{step}: {error}")
            continue
        _check_same_run(state, recipe, data_sha256)
        if wrong := load_trained(model, trained):
            raise BadInput(f"--resume: the checkpoint trains other tensors: {', '.join(wrong[:3])}")
        _restore_optimizer(model, optimizer, kept)
        return state
    if problems:
        raise CtxextError(f"--resume: every checkpoint in {out} is damaged ({problems[0]})")
    return None


def _check_same_run(state: RunState, recipe: Mapping[str, Any], data_sha256: str) -> None:
    old, new = flat(state.recipe), flat(recipe)
    # A run that ran out of memory may go on with less: `memory` changes no number.
    keys = [k for k in sorted(old | new) if not k.startswith("memory.")]
    changed = [k for k in keys if old.get(k) != new.get(k)]
    if changed:
        shown = ", ".join(f"{k} {old.get(k)!r} -> {new.get(k)!r}" for k in changed[:5])
        raise BadInput(
            f"--resume with another recipe: {shown}", "resume with the old one, or start a new run"
        )
    if state.data_sha256 != data_sha256:
        raise BadInput("--resume: the text of --data has changed since the run began")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level: {"train": {"lr": 1}} -> {"train.lr": 1}."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return out


def _optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trained_tensors(model).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}|{name}"] = torch.as_tensor(value).detach().cpu().clone()
    tensors[f"{_RNG}cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors[f"{_RNG}cuda"] = torch.cuda.get_rng_state()
    return tensors


def _restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    for name, parameter in trained_tensors(model).items():
        own = {k.partition("|")[0]: v for k, v in tensors.items() if k.partition("|")[2] == name}
        # AdamW keeps its step count on the CPU, the moments where the parameter is.
        optimizer.state[parameter] = {
            key: value if key == "step" else value.to(parameter.device)
            for key, value in own.items()
        }
    torch.set_rng_state(tensors[f"{_RNG}cpu"])
    if torch.cuda.is_available() and f"{_RNG}cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{_RNG}cuda"])
