"""How the processes of a run share its work: some read other rows, some parts of the same row."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ctxext.machine.launch import GPU_PATIENCE, Launch


@dataclass(frozen=True)
class Mesh:
    """The processes as data ranks x context ranks; neighbours hold parts of the same rows.

    Attributes:
        context_ranks: processes that hold one row together.
        context_group: this process and the others that hold its rows; None when it is alone.
    """

    launch: Launch
    context_ranks: int = 1
    context_group: Any = None

    @property
    def data_ranks(self) -> int:
        """Groups of processes that read rows of their own."""
        return self.launch.ranks // self.context_ranks

    @property
    def data_rank(self) -> int:
        return self.launch.rank // self.context_ranks

    @property
    def context_rank(self) -> int:
        return self.launch.rank % self.context_ranks

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over all ranks, on the value's device; the same bits on every rank."""
        if self.launch.ranks > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value


def make_mesh(launch: Launch, context_ranks: int) -> Mesh:
    """Form the context groups; every rank has to call this at the same time.

    Args:
        context_ranks: divides the number of ranks (`ParallelConfig.check`).
    """
    if context_ranks == 1:
        return Mesh(launch)
    own_group = None
    for first in range(0, launch.ranks, context_ranks):  # all ranks make all groups, in this order
        ranks = list(range(first, first + context_ranks))
        group = dist.new_group(ranks, timeout=GPU_PATIENCE)
        if launch.rank in ranks:
            own_group = group
    return Mesh(launch, context_ranks, own_group)
