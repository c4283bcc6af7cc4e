"""Ways out of memory: what a run could do that it does not do yet, and what each costs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ctxext.runs.recipe.config import FinetuneConfig

Change = Callable[[FinetuneConfig], FinetuneConfig]
TILE = 2048
_SMALL_CHUNK = 256


@dataclass(frozen=True)
class WayOut:
    """A change that needs less memory.

    Attributes:
        change: as it is typed.
        cost: a verb in the third person and what follows it.
        apply: makes it in a recipe.
    """

    change: str
    cost: str
    apply: Change


def ways_out(
    config: FinetuneConfig, processes: int, *, half: bool, on_gpu: bool
) -> dict[str, WayOut]:
    """List what would need less memory, the cheapest first; only what this run does not do yet.

    Args:
        config: `config.train.seq_length` is set.
        half: the frozen weights are in a 16-bit type.

    Returns:
        By the key of the recipe that changes; `dtype`, which none is, is typed beside it.
    """
    train, memory, parallel = config.train, config.memory, config.parallel
    passes = train.gradient_accumulation * train.batch_size
    wider = processes if parallel.context == 1 < processes else parallel.context * 2
    shorter = train.seq_length // 2
    lora = train.what == "lora" and train.quantize == "none" and parallel.shard == 1
    free = "costs next to nothing"
    ways: list[tuple[str, bool, WayOut]] = [
        ("loss_chunk", train.loss_chunk > _SMALL_CHUNK,
         WayOut(f"--set train.loss_chunk={_SMALL_CHUNK}", free, _train(loss_chunk=_SMALL_CHUNK))),
        ("mlp_tile", not memory.mlp_tile,
         WayOut(f"--set memory.mlp_tile={TILE >> 10}k", free, _memory(mlp_tile=TILE))),
        ("batch_size", train.batch_size > 1,
         WayOut(f"--batch-size 1 --gradient-accumulation {passes}",
                "trains the same, a little slower",
                _train(batch_size=1, gradient_accumulation=passes))),
        ("dtype", on_gpu and not half,
         WayOut("--dtype bfloat16", "halves the frozen weights and the activations", lambda c: c)),
        ("shard", processes > 1 and parallel.shard == 1 and train.quantize == "none",
         WayOut(f"--shard {processes}",
                f"leaves each of {processes} processes a share of the weights",
                _parallel(shard=processes))),
        ("recompute", memory.layers(train.gradient_checkpointing) != "all",
         WayOut("--recompute all", "up to a third slower", _memory(recompute="all"))),
        ("offload", on_gpu and memory.offload == "none",
         WayOut("--offload activations", "copies beside the computation",
                _memory(offload="activations", recompute="all"))),
        ("context", True,
         WayOut(f"--context-parallel {wider}", f"shares each row among {wider} processes",
                _parallel(context=wider))),
        ("quantize", on_gpu and half and lora,
         WayOut("--quantize 4bit", "rounds the frozen weights to four bits",
                _train(quantize="4bit"))),
        ("seq_length", train.seq_length >= 4,
         WayOut(f"--seq-length {shorter}", "trains at half the length",
                _train(seq_length=shorter))),
    ]  # fmt: skip
    return {key: way for key, wanted, way in ways if wanted}


def _train(**changes: Any) -> Change:
    return lambda config: replace(config, train=replace(config.train, **changes))


def _memory(**changes: Any) -> Change:
    return lambda config: replace(config, memory=replace(config.memory, **changes))


def _parallel(**changes: Any) -> Change:
    return lambda config: replace(config, parallel=replace(config.parallel, **changes))
