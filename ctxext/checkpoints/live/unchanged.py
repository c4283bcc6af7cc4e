"""Measure what an extension does to texts within the trained window: logits before and after."""

from pathlib import Path
from typing import Any, Final

from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.folder import CONFIG, Source
from ctxext.errors import CtxextError
from ctxext.runs.json_file import read_json_object

_LONGEST: Final = 1024  # tokens that are read; one text of them is enough for a number
_ROUNDING: Final = 1e-4


def logit_change(base: Path, extended: Path, window: int, *, keeps: bool) -> float:
    """Read one text of random tokens by both checkpoints, and compare.

    Args:
        base, extended: folders.
        window: trained, tokens: the text has as many, or 1024.
        keeps: the method leaves such texts alone, but for rounding.

    Returns:
        max |after - before| / max |before|, over all logits.

    Raises:
        CtxextError: logits change where they must not, or are not finite.
    """
    import torch

    logits = []
    for folder in (base, extended):
        model = _loaded(folder)
        generator = torch.Generator().manual_seed(0)
        rows = model.get_input_embeddings().weight.shape[0]
        # The first ids are of padding and the like, at which some classes stand still.
        ids = torch.randint(
            min(10, rows - 1), rows, (1, min(window, _LONGEST)), generator=generator
        )
        with torch.no_grad():
            logits.append(model(ids).logits.float())
        del model
    before, after = logits
    change = float((after - before).abs().max() / before.abs().max())
    if not change < float("inf"):
        raise CtxextError("logits of the extended checkpoint are not finite")
    if keeps and change > _ROUNDING:
        raise CtxextError(
            f"logits within the trained window of {window} tokens change by {change:.1e}, and the "
            "method was to leave them alone"
        )
    return change


def _loaded(folder: Path) -> Any:
    """Load a checkpoint in float32 on the CPU."""
    from ctxext.checkpoints.live.load import load_model

    config, _ = read_json_object(folder / CONFIG)
    position = detect(config, where=CONFIG)
    return load_model(Source(folder, folder.name), position, dtype="float32")
