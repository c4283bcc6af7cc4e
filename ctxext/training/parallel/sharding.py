"""Weights, gradients and optimizer states shared out among processes (FSDP2, arXiv:2304.11277).

`fully_shard` is put on the model from outside: one group for each decoder layer, and one for the
rest (embedding, last norm, head). A layer is gathered just before it computes, in either direction,
and dropped after; the rest is whole within the forward of the root, so that the loss reads the head
there as it always does. No number changes its dtype: frozen bfloat16 and trained float32 travel in
one message, and gradients are averaged over all ranks, those of shares and those of replicas.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ctxext.checkpoints.live.layers import decoder_layers
from ctxext.errors import BadInput
from ctxext.machine.launch import GPU_PATIENCE, Launch

T = TypeVar("T")


def shard_model(model: nn.Module, launch: Launch, shard: int, device: torch.device) -> nn.Module:
    """Leave each rank its share of every parameter; every rank calls this at the same time.

    Args:
        model: a `LossModel`, the same on every rank, anywhere; changed in place.
        shard: processes that hold the weights together, neighbours by rank; divides the number of
            ranks (`ParallelConfig.check`). 1 = nothing happens.
        device: where shares go, and where the model will compute.

    Returns:
        The same model. Its parameters are DTensors but within its forward.

    Raises:
        BadInput: a model whose layers are not known, or that cannot be cut.
    """
    if shard == 1:
        return model
    layers = decoder_layers(model)
    if not layers:
        raise BadInput(
            "--shard: the layers of this model are not known one by one", "leave --shard out"
        )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 0:
            raise BadInput(
                f"--shard: {name} is a single number and cannot be cut", "leave --shard out"
            )
        parameter.data = parameter.data.contiguous()  # else it is refused
    mesh = _device_mesh(launch, shard, device)
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _device_mesh(launch: Launch, shard: int, device: torch.device) -> DeviceMesh:
    """Arrange ranks in rows of `shard`: shares along a row, replicas across the rows.

    The groups are made here, because those that `init_device_mesh` makes wait ten minutes at most.
    """
    ranks = torch.arange(launch.ranks).reshape(-1, shard)
    if shard == launch.ranks:
        return DeviceMesh.from_group(_group_of(launch, ranks.tolist()), device.type)
    groups = [_group_of(launch, ranks.T.tolist()), _group_of(launch, ranks.tolist())]
    names = ("replicate", "shard")
    return DeviceMesh.from_group(groups, device.type, mesh=ranks, mesh_dim_names=names)


def _group_of(launch: Launch, groups: Sequence[Sequence[int]]) -> Any:
    """Form the groups, on all ranks in this order, and return the one that this rank is in."""
    formed = [(ranks, dist.new_group(list(ranks), timeout=GPU_PATIENCE)) for ranks in groups]
    return next(group for ranks, group in formed if launch.rank in ranks)


def evaluated(model: Any, *inputs: Any) -> Any:
    """Return what a `LossModel` makes of its inputs, in a pass that no backward pass follows.

    Args:
        model: sharded or not. Where it is sharded, all ranks call this together, without gradients,
            and the model's parameters are shares again afterwards.
    """
    out = model(*inputs)
    if isinstance(model, FSDPModule):
        model.reshard()  # without a backward pass nothing else does
    return out


def inside(model: Any, work: Callable[[Any], T]) -> T:
    """Run `work` on the model in a `LossModel`, where every weight can be read."""
    done: T = evaluated(model, None, work)
    return done


def gradients_apart(model: Any, accelerator: Any) -> AbstractContextManager[None]:
    """Keep the gradients of ranks apart in a pass after which they are not needed together yet.

    Where every weight of a sharded model is trained they meet nevertheless: whole gradients of all
    of them, kept until the last pass, would be what sharding is to avoid.
    """
    if not isinstance(model, FSDPModule):
        apart: AbstractContextManager[None] = accelerator.no_sync(model)
        return apart
    if all(p.requires_grad for p in model.parameters()):  # type: ignore[attr-defined]
        return nullcontext()
    return _without_sync(model)


@contextmanager
def _without_sync(model: FSDPModule) -> Any:
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Make a share whole on every rank; all ranks call this together.

    A tensor that is not cut is given back.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this rank's share of a whole tensor, the same on every rank, cut as `like` is.

    No rank needs another for it. Where `like` is not cut, the tensor moves to its device.
    """
    moved = tensor.to(like.device)
    if not isinstance(like, DTensor):
        return moved
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this rank holds of a tensor, as a plain one."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gathered_bytes(model: nn.Module) -> int:
    """Count the most that is whole at a time beside the shares; 0 for a model not sharded.

    The parameters outside the layers, two layers (one computes, one is fetched), and, of what is
    trained in a layer, the gradient and the message in which it leaves.
    """
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        return 0
    layers = decoder_layers(model)
    inner = {id(p) for layer in layers for p in layer.parameters()}
    outside = sum(_bytes(p) for p in model.parameters() if id(p) not in inner)
    largest = max(sum(_bytes(p) for p in layer.parameters()) for layer in layers)
    trained = max(sum(_bytes(p) for p in x.parameters() if p.requires_grad) for x in layers)
    return outside + 2 * largest + 2 * trained


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
