"""Say what the machine did to a run: memory that ran out, a process that is gone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from ctxext.errors import CtxextError, is_out_of_memory
from ctxext.machine.launch import Launch
from ctxext.runs.recipe.config import FinetuneConfig
from ctxext.training.estimate.ways_out import TILE, ways_out

_PEER_GONE = re.compile(r"Connection (closed|reset) by peer|Socket closed|Broken pipe|recv.*gloo")


@contextmanager
def explained(config: FinetuneConfig, launch: Launch, *, half: bool) -> Iterator[None]:
    """Turn what the machine did into one sentence.

    Raises:
        CtxextError: out of memory (with the three cheapest ways out), or another process is gone.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if is_out_of_memory(error):
            raise _out_of_memory(config, launch, half=half) from error
        gone = isinstance(error, dist.DistError) or _PEER_GONE.search(str(error))
        if launch.ranks > 1 and gone:
            raise CtxextError(
                f"rank {launch.rank}: another process of this run is gone",
                "see what it said; --resume goes on from the last checkpoint",
            ) from error
        raise


def _out_of_memory(config: FinetuneConfig, launch: Launch, *, half: bool) -> CtxextError:
    train = config.train
    where = f"rank {launch.rank}: " if launch.ranks > 1 else ""
    on_gpu = torch.cuda.is_available()
    ways = ways_out(config, launch.ranks, half=half, on_gpu=on_gpu)
    if train.seq_length <= TILE:  # a row within one tile
        ways.pop("mlp_tile", None)
    cheapest = "; ".join(f"{way.change} ({way.cost})" for way in list(ways.values())[:3])
    error = CtxextError(
        f"{where}out of memory at {train.batch_size} x {train.seq_length} tokens",
        f"cheapest first: {cheapest}",
    )
    error.alone = True
    return error
