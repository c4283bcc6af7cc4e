"""Identify how a checkpoint tells positions, so that an adapter is merged under no other way.

Of a rope it is the hash of the rotation (`Rope.sha256`). What does not turn is identified by its
word and its window, a learned table by its rows besides, and ALiBi by what divides its slopes.
"""

import hashlib
import json
from pathlib import Path

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.patch_window import SLOPE_FACTOR, slope_factor
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.weights.files import read_tensor, read_weights
from ctxext.checkpoints.weights.position_table import position_table

POSITION_KEY = "ctxext.position_sha256"
"""In the metadata of an adapter's safetensors: the encoding it was trained under, if no rope."""


def position_sha256(position: Position, folder: Path) -> str:
    """Hash the position encoding of a checkpoint.

    Args:
        folder: of the same checkpoint; its weights are read for a learned table only.

    Raises:
        BadInput: a learned table that is not found.
    """
    if position.rope is not None:
        return position.rope.sha256
    stated = position.stated_window
    window = None if stated is None else [stated.original, stated.current]
    digest = hashlib.sha256(json.dumps([position.encoding, window]).encode())
    if position.encoding == "alibi" and (slopes := _slope_factor(folder)) != 1:
        digest.update(json.dumps([SLOPE_FACTOR, slopes]).encode())
    if position.encoding == "learned":
        weights = read_weights(folder)
        name = position_table(weights, position.model_type)
        info = weights.tensors[name][1]
        digest.update(json.dumps([info.dtype, list(info.shape)]).encode())
        digest.update(read_tensor(weights, name))
    return digest.hexdigest()


def _slope_factor(folder: Path) -> float:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return slope_factor(config, CONFIG)
