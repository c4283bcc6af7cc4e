"""Compute MLPs a few positions at a time, exactly, so that none holds length x intermediate.

The norm before an MLP goes along where the layer's code says that only the MLP reads it: its
float32 input and output then exist for one tile.

The work is split in two autograd functions. `_Keep` saves the MLP's input and nothing else;
`_Tiles` saves nothing, and in the backward pass reads that input and recomputes tile by tile.
Inside a checkpointed layer the input is then the last tensor saved, and non-reentrant checkpointing
stops recomputing there: the MLP is computed twice in all, as often as without tiles.
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

_ACTIVATIONS = ("transformers.activations", "torch.nn.modules.activation")
_NORM_THEN_MLP = re.compile(
    r"hidden_states = self\.(\w+)\(hidden_states\)\n\s*hidden_states = self\.mlp\(hidden_states\)\n"
)
_CONTAINERS = (nn.ModuleDict, nn.ParameterDict, nn.Identity, nn.Dropout)


class TiledMLP:
    """A stand-in for one MLP's `forward`: names of parameters and hooks stay as they are."""

    def __init__(self, module: nn.Module, tile: int, norm: nn.Module | None = None) -> None:
        """Compute `norm` with each tile too; where the layer calls it, it then does nothing."""
        self.tile = tile
        self.modules = [module] if norm is None else [norm, module]
        self.forwards = [each.forward for each in self.modules]
        if norm is not None:
            norm.forward = _unchanged

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        for forward in self.forwards:
            x = forward(x)
        return x

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Compute (..., hidden) from (..., hidden), `tile` rows at a time."""
        flat = x.reshape(-1, x.shape[-1])
        if flat.shape[0] <= self.tile:
            return self.plain(x)
        trained = _trained(self.modules)
        call = _Call(self, any(map(_has_dropout, self.modules)), flat.requires_grad)
        if trained and torch.is_grad_enabled() and not flat.requires_grad:
            flat = flat.detach().requires_grad_()  # what is saved is kept for the backward pass
        kept = _Keep.apply(flat, call)  # type: ignore[no-untyped-call]
        out = _Tiles.apply(kept, call, *trained)  # type: ignore[no-untyped-call]
        return out.reshape(*x.shape[:-1], out.shape[-1])  # type: ignore[no-any-return]

    def slices(self, rows: int) -> Iterator[slice]:
        for at in range(0, rows, self.tile):
            yield slice(at, min(at + self.tile, rows))


@dataclass
class _Call:
    """One forward pass of one MLP: where its input lies, and whether a gradient of it is wanted."""

    mlp: TiledMLP
    dropout: bool
    wants_x: bool
    keeper: Any = None


class _Keep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, call: _Call) -> torch.Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x)
        call.keeper = ctx
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor | None) -> Any:
        return grad_outputs[0], None


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, call: _Call, *trained: torch.Tensor) -> torch.Tensor:
        ctx.call, ctx.rng, ctx.autocast = call, [], _autocast(x.device.type)
        out = None
        for rows in call.mlp.slices(x.shape[0]):
            if call.dropout:
                ctx.rng.append(_rng(x.device))
            tile = call.mlp.plain(x[rows])
            if out is None:
                out = tile.new_empty(x.shape[0], tile.shape[-1])
            out[rows] = tile
        return out  # type: ignore[return-value]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> Any:
        (grad,) = grad_outputs
        mlp: TiledMLP = ctx.call.mlp
        (x,) = ctx.call.keeper.saved_tensors
        wants_x = ctx.call.wants_x
        trained = _trained(mlp.modules)
        grad_x = torch.empty_like(x) if wants_x else None
        sums: list[torch.Tensor | None] = [None] * len(trained)
        with torch.enable_grad(), torch.autocast(**ctx.autocast), _forked(x.device, bool(ctx.rng)):
            for index, rows in enumerate(mlp.slices(x.shape[0])):
                if ctx.rng:
                    _set_rng(x.device, ctx.rng[index])
                tile = x[rows].detach().requires_grad_(wants_x)
                inputs = ([tile] if wants_x else []) + trained
                gradients = list(
                    torch.autograd.grad(mlp.plain(tile), inputs, grad[rows], allow_unused=True)
                )
                if grad_x is not None:
                    grad_x[rows] = gradients.pop(0)
                _add(sums, gradients)
                del gradients  # as large as what is trained, when the next tile's are made
        return grad_x, None, *sums


def tile_mlps(model: nn.Module, tile: int) -> tuple[int, Sequence[str]]:
    """Compute every plain MLP of the decoder's layers `tile` positions at a time.

    Plain are modules named `mlp` made of linear layers (with or without adapters), activations and
    dropout: what they do to a position depends on that position only, and nothing else reads what
    happens inside. Blocks with experts are left alone, their routers report to the loss.

    Args:
        model: after adapters were added; changed in place.
        tile: positions (over all rows of the batch) that are computed at the same time.

    Returns:
        How many MLPs are tiled, and the class names of those that are not.
    """
    tiled, skipped = 0, set()
    for name, module in model.named_modules():
        if name.rpartition(".")[2] != "mlp" or isinstance(module, nn.ModuleDict):
            continue
        if isinstance(module.forward, TiledMLP):
            tiled += 1
        elif is_plain_mlp(module):
            norm = norm_before_mlp(model.get_submodule(name.rpartition(".")[0]))
            module.forward = TiledMLP(module, tile, norm)
            tiled += 1
        else:
            skipped.add(type(module).__name__)
    return tiled, sorted(skipped)


@contextmanager
def smaller_tiles(model: nn.Module, tile: int) -> Iterator[None]:
    """Cut what is tiled into tiles of at most so many positions (at least one) in this block."""
    tiled = [m.forward for m in model.modules() if isinstance(m.forward, TiledMLP)]
    before = [each.tile for each in tiled]
    for each in tiled:
        each.tile = max(1, min(each.tile, tile))
    try:
        yield
    finally:
        for each, size in zip(tiled, before, strict=True):
            each.tile = size


def tile_positions(model: nn.Module, tile: int) -> None:
    """Compute all MLPs and norms of hidden states `tile` positions at a time, for reading alone.

    A model may be given more than once.

    Args:
        model: a causal language model; changed in place.
        tile: positions (over all rows of the batch) that are computed at the same time.
    """
    tile_mlps(model, tile)
    size = getattr(getattr(model, "config", None), "hidden_size", 0)
    for name, module in model.named_modules():
        if (
            "norm" in name.rpartition(".")[2]
            and "forward" not in vars(module)  # by itself, or with its MLP, already
            and [tuple(p.shape) for p in module.parameters()] == [(size,)]
            and _is_by_position(module, size)
        ):
            module.forward = TiledMLP(module, tile)


@torch.no_grad()
def _is_by_position(norm: nn.Module, size: int) -> bool:
    """Tell whether what a norm says of a position depends on that position only."""
    weight = next(norm.parameters())
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, size, generator=generator).to(weight.device, weight.dtype)
    return torch.equal(norm(x)[:, 1:2], norm(x[:, 1:2]))


def is_plain_mlp(module: nn.Module) -> bool:
    """Tell whether a module holds linear layers, activations, dropout, and nothing else."""
    linear = 0
    for child in module.modules():
        if child is module:
            if any(True for _ in child.parameters(recurse=False)):
                return False
        elif isinstance(child, nn.Linear):
            linear += 1
        elif not (
            isinstance(child, _CONTAINERS)
            or type(child).__module__ in _ACTIVATIONS
            or _is_adapted_linear(child)
        ):
            return False
    return linear > 1


def norm_before_mlp(layer: nn.Module) -> nn.Module | None:
    """Find the norm whose output goes to `layer.mlp` and nowhere else, by the layer's code."""
    try:
        code = inspect.getsource(type(layer).forward)
    except (OSError, TypeError):  # no source is there
        return None
    match = _NORM_THEN_MLP.search(code)
    if match is None or code.count(f"self.{match[1]}") > 1 or "norm" not in match[1]:
        return None
    norm = getattr(layer, match[1])
    return norm if isinstance(norm, nn.Module) else None


def _add(sums: list[torch.Tensor | None], gradients: Sequence[torch.Tensor | None]) -> None:
    """Add gradients to their sums, in place."""
    for at, gradient in enumerate(gradients):
        total = sums[at]
        if total is None or gradient is None:
            sums[at] = gradient if total is None else total
        else:
            total.add_(gradient)


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


def _is_adapted_linear(module: nn.Module) -> bool:
    return type(module).__module__.startswith("peft.tuners.lora") and isinstance(
        getattr(module, "base_layer", None), nn.Linear
    )


def _trained(modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _has_dropout(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in module.modules())


def _autocast(device_type: str) -> dict[str, Any]:
    return {
        "device_type": device_type,
        "enabled": torch.is_autocast_enabled(device_type),
        "dtype": torch.get_autocast_dtype(device_type),
    }


def _rng(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_rng(device: torch.device, state: torch.Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@contextmanager
def _forked(device: torch.device, enabled: bool) -> Iterator[None]:
    """Put the random state back afterwards: the backward pass must not move it."""
    if not enabled:
        yield
        return
    before = _rng(device)
    try:
        yield
    finally:
        _set_rng(device, before)
