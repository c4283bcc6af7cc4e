"""The adapter that a run leaves: peft's files, and the position encoding it was trained under."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ctxext.checkpoints.weights.adapter import ROPE_KEY
from ctxext.checkpoints.weights.files import ADAPTER_CONFIG
from ctxext.checkpoints.weights.position_hash import POSITION_KEY, position_sha256
from ctxext.checkpoints.weights.safetensors_file import set_metadata
from ctxext.machine.launch import Launch
from ctxext.runs.json_file import dump_json, read_json_object
from ctxext.runs.output import beside
from ctxext.training.model.lora import LossModel, trained_tensors
from ctxext.training.run.setting import Base
from ctxext.training.run.state import whole_trained


def write_adapter(model: LossModel, folder: Path, base: Base, launch: Launch) -> None:
    """Write a peft adapter whose metadata carries the hash of the encoding it was trained under.

    All ranks call this together; rank 0 writes.
    """
    trained = whole_trained(model, keep=launch.main)
    launch.on_main(lambda: _write(model, trained, folder, base))


def _write(model: LossModel, trained: Mapping[str, torch.Tensor], folder: Path, base: Base) -> None:
    key = ROPE_KEY if base.position.rope is not None else POSITION_KEY
    sha256 = position_sha256(base.position, base.source.folder)
    names = {id(parameter): name for name, parameter in trained_tensors(model).items()}
    with beside(folder) as staging:
        model.model.save_pretrained(
            staging,
            state_dict={  # a tied embedding goes by two names
                name: trained[names[id(parameter)]]
                for name, parameter in model.model.named_parameters(remove_duplicate=False)
                if id(parameter) in names
            },
            safe_serialization=True,
            save_embedding_layers=False,  # else peft asks the Hub; trained ones are saved anyway
        )
        (staging / "README.md").unlink(missing_ok=True)  # peft's template; push writes a real card
        _sort_sets(staging / ADAPTER_CONFIG)
        set_metadata(staging / "adapter_model.safetensors", {"format": "pt", key: sha256})


def _sort_sets(file: Path) -> None:
    """Sort what peft keeps in sets, whose order changes from one process to the next."""
    config, _ = read_json_object(file)
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    file.write_text(dump_json(config), encoding="utf-8")
