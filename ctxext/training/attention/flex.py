"""Tell when a run uses transformers' flex attention, which has to be compiled."""

from collections.abc import Sequence

from ctxext.checkpoints.config.layouts import Layer
from ctxext.runs.recipe.config import FinetuneConfig
from ctxext.training.estimate.memory import EAGER

FLEX = "flex_attention"


def flex_reason(
    config: FinetuneConfig, model_type: str, layers: Sequence[Layer], device_type: str
) -> str:
    """Name the switch or layer that makes a run use flex attention; empty where none does.

    Args:
        config: `config.train.seq_length` is set.
        layers: of the checkpoint that is trained, as `detect` reads them.
        device_type: `cpu` or `cuda`: only GPUs use it.
    """
    if device_type != "cuda" or config.parallel.context > 1 or config.train.attention == "s2":
        return ""
    if config.data.documents == "separate":
        return "data.documents: separate"
    windows = [layer.window for layer in layers if layer.attention == "sliding" and layer.window]
    if model_type not in EAGER and windows and min(windows) <= config.train.seq_length:
        return "attention in sliding windows"
    return ""
