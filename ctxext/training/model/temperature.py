"""`train.what: temperature`: by what attention without positions multiplies its scores.

Beyond the trained window such attention spreads over more tokens than it ever did; sharpened, it
finds them again (Wang et al., arXiv:2404.12224, "uniform scale" and "head scale"). The model is
frozen. The published runs begin at 1.6 and keep every number above 1; here each begins at 1, where
the model is the base's, and goes where its gradient leads: an encoding that is not new to the model
(a rope that was stopped, a layer among others that turn) may want less.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.weights.adapter import Adapter
from ctxext.checkpoints.weights.files import Weights
from ctxext.checkpoints.weights.live_names import stored_name
from ctxext.checkpoints.weights.safetensors_file import read_header
from ctxext.checkpoints.weights.still_queries import StillQueries, find_still_queries
from ctxext.runs.recipe.config import HEADS, TEMPERATURE
from ctxext.training.model.full import PREFIX

SCALE, _ROWS = "ctxext_scale", "ctxext_heads"


def train_temperature(model: Any, weights: Weights, position: Position, *, per_head: bool) -> Any:
    """Put a trainable factor on the queries of every layer without positions; freeze the rest.

    Args:
        model: a causal language model as transformers loads it; changed in place.
        weights: of the checkpoint it was loaded from.
        per_head: one for each head of each layer; else one for all.

    Returns:
        The same model.

    Raises:
        BadInput: there is no such layer, or its queries are not known or not told apart by head.
    """
    queries = find_still_queries(weights, position, what=_what(per_head))
    queries.check(_word(per_head))
    model.requires_grad_(False)
    if not per_head:
        model.register_parameter(SCALE, nn.Parameter(torch.ones(1, device=_device(model))))
    for module, name in _modules(model, weights, queries):
        heads = [-1 if head is None else head * per_head for head in queries.heads[name]]
        place = _device(module)
        module.register_buffer(_ROWS, torch.tensor(heads, device=place), persistent=False)
        if per_head:
            ones = torch.ones(queries.count, device=place)
            module.register_parameter(SCALE, nn.Parameter(ones))
        module.register_forward_hook(_scaling(module if per_head else model))
    return model


def read_temperature(file: Path, weights: Weights, position: Position) -> Adapter:
    """Read what a run has trained as factors on the rows of the base's tensors.

    Args:
        file: of the run (`state.trained_file`).
        weights: of the base.
    """
    from safetensors.torch import load_file

    scales = {name: tensor.tolist() for name, tensor in load_file(file).items()}
    shared = scales.get(PREFIX + SCALE)
    queries = find_still_queries(weights, position, what=_what(shared is None))
    modules = {  # the tensor that a factor is on, by the module's stored name
        stored_name(name.removeprefix(PREFIX).removesuffix(SCALE) + "weight", weights.tensors): each
        for name, each in scales.items()
    }
    scaled = {
        name: queries.scaled(name, shared or modules[name.removesuffix(".bias") + ".weight"
                                                     if name.endswith(".bias") else name])
        for name in queries.heads
    }  # fmt: skip
    return Adapter(file, {}, read_header(file), {}, {}, scaled=scaled)


def _what(per_head: bool) -> str:
    return f"train.what: {_word(per_head)}"


def _word(per_head: bool) -> str:
    return HEADS if per_head else TEMPERATURE


def _modules(model: Any, weights: Weights, queries: StillQueries) -> list[tuple[Any, str]]:
    """Find the live modules whose output is scaled, each with the stored name of its weight."""
    named = (
        (module, stored_name(f"{path}.weight", weights.tensors))
        for path, module in model.named_modules()
    )
    return [(module, name) for module, name in named if name in queries.heads]


def _device(module: Any) -> torch.device:
    device: torch.device = next(module.parameters()).device
    return device


def _scaling(owner: Any) -> Any:
    """Make the hook that multiplies a module's output, (..., rows), row by row."""

    def scale(module: Any, inputs: Any, out: torch.Tensor) -> torch.Tensor:
        heads, factors = getattr(module, _ROWS), getattr(owner, SCALE)
        by_row = torch.where(heads < 0, 1.0, factors[heads.clamp(min=0)])
        return (out.float() * by_row).to(out.dtype)

    return scale
