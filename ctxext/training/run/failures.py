"""What the machine may do to a run, in words: memory that runs out, a process that is gone."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from ctxext.errors import CtxextError, is_out_of_memory
from ctxext.machine.launch import Launch
from ctxext.runs.recipe.config import FinetuneConfig

_PEER_GONE = re.compile(r"Connection (closed|reset) by peer|Socket closed|Broken pipe|recv.*gloo")
_SMALL_CHUNK, _TILE = 256, 2048


@dataclass(frozen=True)
class WayOut:
    """A change that needs less memory, and what it costs."""

    change: str
    cost: str


def ways_out(config: FinetuneConfig, launch: Launch, *, half: bool) -> list[WayOut]:
    """What would need less memory, the cheapest first; only what this run does not do already.

    Args:
        half: the weights are in a 16-bit type.
    """
    train, parallel = config.train, config.parallel
    out = []
    if train.loss_chunk > _SMALL_CHUNK:
        out.append(WayOut(f"--set train.loss_chunk={_SMALL_CHUNK}", "costs next to nothing"))
    if not config.memory.mlp_tile and train.seq_length > _TILE:
        out.append(WayOut(f"--set memory.mlp_tile={_TILE}", "costs next to nothing"))
    if train.batch_size > 1:
        passes = train.gradient_accumulation * train.batch_size
        change = f"--batch-size 1 --gradient-accumulation {passes}"
        out.append(WayOut(change, "trains the same, a little slower"))
    if not half and torch.cuda.is_available():
        out.append(WayOut("--dtype bfloat16", "halves the frozen weights and the activations"))
    if launch.ranks > 1 and parallel.shard == 1 and train.quantize == "none":
        shares = f"leaves each of {launch.ranks} processes a share of the weights"
        out.append(WayOut(f"--shard {launch.ranks}", shares))
    if config.memory.layers(train.gradient_checkpointing) != "all":
        out.append(WayOut("--recompute all", "up to a third slower"))
    if config.memory.offload == "none" and torch.cuda.is_available():
        out.append(WayOut("--offload activations", "copies beside the computation"))
    wider = parallel.context * 2
    out.append(WayOut(f"--context-parallel {wider}", f"shares each row among {wider} processes"))
    if train.seq_length >= 4:
        change = f"--seq-length {train.seq_length // 2}"
        out.append(WayOut(change, "trains at half the length"))
    return out


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
    ways = ways_out(config, launch, half=half)[:3]
    error = CtxextError(
        f"{where}out of memory at {train.batch_size} x {train.seq_length} tokens",
        "cheapest first: " + "; ".join(f"{way.change} ({way.cost})" for way in ways),
    )
    error.alone = True
    return error
