"""Put a recipe's memory switches on a model, and say what was done."""

from dataclasses import dataclass, replace
from typing import Any

from ctxext.checkpoints.config.dtype import has_grouped_keys
from ctxext.checkpoints.live.head import without_peft
from ctxext.checkpoints.live.layers import decoder_layers
from ctxext.checkpoints.live.tiling import tile_mlps
from ctxext.errors import BadInput
from ctxext.machine.host_memory import check_host_memory, parked_bytes
from ctxext.machine.launch import Launch
from ctxext.machine.memory import USABLE, available_bytes, host_memory
from ctxext.runs.recipe.config import FinetuneConfig
from ctxext.training.estimate.memory import (
    Pass,
    Shape,
    layers_to_recompute,
)
from ctxext.training.estimate.passes import loss_chunk, pass_from
from ctxext.training.memory.offload import Offloader
from ctxext.training.memory.recompute import recompute_first
from ctxext.training.parallel.sharding import gathered_bytes, own_part


@dataclass(frozen=True)
class MemoryPlan:
    """What the memory switches came to.

    Attributes:
        recomputed, layers: decoder layers that recompute, of how many.
        offload: their inputs lie in host memory.
        tiled: MLPs that are tiled.
        notes: sentences for the user, about what was decided or could not be done.
    """

    recomputed: int
    layers: int
    offload: bool
    tiled: int
    notes: tuple[str, ...]


def loss_chunk_of(model: Any, config: FinetuneConfig) -> int:
    """Return `passes.loss_chunk` for a live model."""
    return loss_chunk(config, _vocabulary(model))


def step_memory(model: Any, config: FinetuneConfig) -> int | None:
    """Return the bytes that a step may take beside weights, adapters' gradients and optimizer.

    Args:
        model: with adapters, on its device, sharded if it will be, before the optimizer's first
            step.

    Returns:
        `memory.limit_gib`, or nine tenths of what is free; None where nobody knows.
    """
    if config.memory.limit_gib:
        return int(config.memory.limit_gib * 2**30)
    first = next(iter(model.parameters()))
    free = available_bytes(first.device)
    if free is None:
        return None
    trained = sum(own_part(p).numel() for p in model.parameters() if p.requires_grad)
    to_come = 12 * trained + gathered_bytes(model)  # gradient, two moments; layers made whole
    return int(USABLE * (free - to_come))


def fit_memory(model: Any, config: FinetuneConfig, launch: Launch, width: int) -> MemoryPlan:
    """Run `apply_memory` with the least free memory of all ranks: all have to decide alike.

    Raises:
        BadInput: as `apply_memory`; host memory that does not hold what is offloaded.
    """
    free = launch.gather(step_memory(model, config))
    known = [number for number in free if number is not None]
    plan = apply_memory(model, config, min(known) if len(known) == len(free) else None, width)
    if plan.offload:
        parked = parked_inputs(model, config, plan.recomputed, width)
        launch.agree(lambda: check_host_memory(parked, launch.local_ranks, host_memory()))
    return plan


def apply_memory(
    model: Any, config: FinetuneConfig, free: int | None, width: int | None = None
) -> MemoryPlan:
    """Tile, recompute and offload as `config.memory` says; the model is changed in place.

    Args:
        model: with adapters.
        config: `config.train.seq_length` is set.
        free: bytes a step may take, for `recompute: auto`: `step_memory`, the least of all ranks.
        width: bytes of a number that is computed with; None = of one in the weights.

    Raises:
        BadInput: a switch that this model cannot be given.
    """
    memory, notes = config.memory, []
    tiled = 0
    if memory.mlp_tile:
        tiled, skipped = tile_mlps(model, memory.mlp_tile)
        if skipped:
            notes.append(f"memory.mlp_tile leaves {', '.join(skipped)} alone: not a plain MLP")
        elif not tiled:
            raise BadInput(
                f"memory.mlp_tile: no layer of {_name(model)} has an `mlp`", "leave it out"
            )
    wanted = memory.layers(config.train.gradient_checkpointing)
    layers = len(decoder_layers(model))
    offload = memory.offload == "activations"
    if wanted == "auto":
        if free is None:
            raise BadInput(
                "--recompute auto: nothing says how much memory is free here",
                "give --set memory.limit_gib=N",
            )
        shape, step = shape_of(model), pass_of(model, config, width)
        if not _has_fused_attention(model, step.width):
            shape = replace(shape, eager=True)
        count: int | None = layers_to_recompute(shape, step, free)
        notes.append(
            f"recomputing {count} of {layers} layers: {free / 2**20:,.0f} MiB for a step of "
            f"{config.train.batch_size} x {config.train.seq_length} tokens"
        )
        if offload and count == 0:
            notes.append("memory.offload has nothing to park: no layer recomputes")
    elif isinstance(wanted, int):
        count = wanted
    else:
        count = None if wanted == "all" else 0
    done = recompute_first(model, count, Offloader() if offload and count != 0 else None)
    return MemoryPlan(done, layers, offload and done > 0, tiled, tuple(notes))


def shape_of(model: Any) -> Shape:
    """Read the sizes of a live model, for estimates.

    Raises:
        BadInput: its config does not name them.
    """
    config = model.config.get_text_config()
    try:
        return Shape.of(config.to_dict() | {"_attn_implementation": config._attn_implementation})
    except KeyError as error:
        raise BadInput(
            f"--recompute auto: the config of {_name(model)} has no {error}",
            "say how many layers, or --recompute all",
        ) from error


def _has_fused_attention(model: Any, width: int) -> bool:
    """Tell whether attention holds no length x length weights: a GPU's SDPA does for grouped keys
    in float32."""
    config = model.config.get_text_config()
    on_gpu = next(iter(model.parameters())).device.type == "cuda"
    plain = config._attn_implementation == "sdpa"
    return not (on_gpu and plain and width == 4 and has_grouped_keys(config.to_dict()))


def pass_of(model: Any, config: FinetuneConfig, width: int | None = None) -> Pass:
    """Describe one forward pass of a run, for estimates.

    Args:
        width: bytes of a number that is computed with; None = of one in the weights.
    """
    width = width or without_peft(model).dtype.itemsize
    return pass_from(config, vocabulary=_vocabulary(model), width=width)


def parked_inputs(model: Any, config: FinetuneConfig, layers: int, width: int) -> int:
    """Count the bytes that this process parks in host memory when so many layers recompute."""
    hidden = int(model.config.get_text_config().hidden_size)
    tokens = pass_of(model, config, width).tokens
    pinned = next(iter(model.parameters())).device.type == "cuda"
    return parked_bytes(layers, tokens * hidden * width, pinned=pinned)


def _vocabulary(model: Any) -> int:
    return int(model.config.get_text_config().vocab_size)


def _name(model: Any) -> str:
    base = without_peft(model)
    return type(base).__name__
