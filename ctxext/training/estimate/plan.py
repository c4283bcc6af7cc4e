"""Plan a run before it is started: its memory by part, tokens, arithmetic, what fits.

Everything here is computed from shapes and the recipe; nothing is loaded. `step_bytes` of
`memory.py` is held to 15 % of measured peaks by tests; what a plan says of time is as good as the
rates that it is given.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ctxext.machine.host_memory import parked_bytes
from ctxext.machine.memory import USABLE
from ctxext.runs.recipe.config import FULL, HEADS, ROWS, TEMPERATURE, FinetuneConfig
from ctxext.training.estimate.flops import Flops, pass_flops
from ctxext.training.estimate.memory import (
    Pass,
    Shape,
    adapter_bytes,
    adapter_parameters,
    checkpoint_bytes,
    kept_bytes,
    layer_workspace_bytes,
    layers_to_recompute,
    loss_bytes,
    mask_bytes,
    step_bytes,
    weights_bytes,
)
from ctxext.training.estimate.passes import pass_from
from ctxext.training.estimate.ways_out import WayOut, ways_out

FIRST_PASS = 40 * 2**20
"""Bytes that the first pass adds to a CPU process for good: code of the libraries that is read only
then, and their buffers; about 40 MiB with torch 2.13."""
_LONGEST = 2**26
_SPARING = ("offload", "mlp_tile", "quantize", "batch_size", "context", "shard")
_NF4_BYTES = (
    0.5 + 0.127 / 8
)  # four bits, and the twice quantised scale of each 64 (arXiv:2305.14314)


@dataclass(frozen=True)
class Base:
    """A checkpoint as far as a plan needs it.

    Attributes:
        parameters: of the whole model.
        tied: the head is the embedding.
        width: bytes of a number as it will be loaded.
    """

    shape: Shape
    parameters: int
    tied: bool
    width: int


@dataclass(frozen=True)
class Machine:
    """Where the run is going to be.

    Attributes:
        name: as the user knows it.
        memory: bytes of one device, or of the machine for a CPU.
        runtime: bytes that the libraries take before anything is loaded.
        devices: how many of them; each holds the whole base, unless weights are sharded.
        is_host: what is offloaded stays in the same memory: a CPU.
        host: bytes of host memory for each device, where what is offloaded goes; None = not known.
    """

    name: str
    memory: int
    runtime: int
    devices: int = 1
    is_host: bool = False
    host: int | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at its peak, by part; `host` are those of layer inputs that are parked.

    `kept` are activations of layers that do not recompute. The loss and the recomputation of one
    layer do not coincide, so the peak is less than the sum of all parts.
    """

    runtime: int
    weights: int
    trained: int
    checkpoints: int
    masks: int
    kept: int
    layer: int
    loss: int
    peak: int
    recomputed: int
    host: int

    def parts(self) -> dict[str, int]:
        """Map each part to its bytes, in the order in which they come to be."""
        return {
            "libraries": self.runtime,
            "weights": self.weights,
            "trained weights, gradients, optimizer": self.trained,
            "layer inputs (checkpoints)": self.checkpoints,
            "attention masks": self.masks,
            "activations of layers not recomputed": self.kept,
            "one layer and its gradients": self.layer,
            "loss": self.loss,
        }


@dataclass(frozen=True)
class Switch:
    """What a change of one key would do, everything else as it is.

    Attributes:
        name: as it is typed; empty for the recipe as it is.
        peak: bytes of one process.
        longest: tokens in a row that still fit; 0 = none.
        arithmetic: of a step, over that of the recipe as it is.
    """

    name: str
    peak: int
    longest: int
    arithmetic: float


def trained_parameters(base: Base, config: FinetuneConfig) -> int:
    """Count the numbers that the optimizer moves."""
    shape, lora = base.shape, config.lora
    if config.train.what == FULL:
        return base.parameters
    if config.train.what == ROWS:
        return shape.hidden * max(config.train.seq_length, config.train.pose_target)
    if config.train.what in (TEMPERATURE, HEADS):
        return shape.layers * shape.heads if config.train.what == HEADS else 1
    count = adapter_parameters(shape, lora.matrices, lora.rank)
    if lora.train_norms:
        count += shape.hidden * (shape.norms * shape.layers + 1)
        count += 2 * shape.head_dim * shape.layers * shape.qk_norm
    if lora.train_embeddings:
        count += shape.vocabulary * shape.hidden * (1 if base.tied else 2)
    return count


def base_bytes(base: Base, config: FinetuneConfig) -> int:
    """Count the bytes of frozen weights; when all are trained, of the copies that autocast keeps of
    the layers' (`head_bytes` has the head's, and an embedding needs none)."""
    tables = base.shape.vocabulary * base.shape.hidden * (1 if base.tied else 2)
    if config.train.what == FULL:
        return 0 if base.width == 4 else weights_bytes(base.parameters - tables, base.width)
    if config.train.quantize == "4bit":
        return int((base.parameters - tables) * _NF4_BYTES) + tables * base.width
    return weights_bytes(base.parameters, base.width)


def planned_gathered(base: Base, config: FinetuneConfig) -> int:
    """Count the bytes that are whole beside a process's share of the weights; 0 when it holds all.

    As `sharding.gathered_bytes`: tables + 2 layers + 2 * what is trained in a layer, as float32.
    """
    if config.parallel.shard == 1:
        return 0
    full = config.train.what == FULL
    width = 4 if full else base.width
    tables = base.shape.vocabulary * base.shape.hidden * (1 if base.tied else 2)
    layer = (base.parameters - tables) // base.shape.layers
    adapters = adapter_parameters(base.shape, config.lora.matrices, config.lora.rank)
    trained = layer if full else adapters // base.shape.layers
    return width * (tables + 2 * layer) + 2 * 4 * trained


def planned_pass(base: Base, config: FinetuneConfig) -> Pass:
    """Describe one forward and backward pass of the run, on one process."""
    return pass_from(config, vocabulary=base.shape.vocabulary, width=base.width)


def planned_memory(base: Base, config: FinetuneConfig, machine: Machine) -> Memory:
    """Estimate one process's peak and its parts; `recompute: auto` is decided for this machine."""
    shape, step = base.shape, planned_pass(base, config)
    shard = config.parallel.shard
    weights = base_bytes(base, config) // shard + planned_gathered(base, config)
    trained = adapter_bytes(trained_parameters(base, config)) // shard
    fixed = machine.runtime + weights + trained
    wanted = config.memory.layers(config.train.gradient_checkpointing)
    if wanted == "auto":
        limit = int(config.memory.limit_gib * 2**30)
        free = limit or int(USABLE * machine.memory) - fixed
        recomputed = layers_to_recompute(shape, step, free)
    elif isinstance(wanted, int):
        recomputed = min(wanted, shape.layers)
    else:
        recomputed = shape.layers if wanted == "all" else 0
    layer_input = checkpoint_bytes(shape, replace(step, offload=False), 1)
    parked = parked_bytes(recomputed, layer_input, pinned=not machine.is_host)
    host = parked if step.offload else 0
    return Memory(
        runtime=machine.runtime,
        weights=weights,
        trained=trained,
        checkpoints=checkpoint_bytes(shape, step, recomputed),
        masks=mask_bytes(shape, step),
        kept=(shape.layers - recomputed) * kept_bytes(shape, step),
        layer=layer_workspace_bytes(shape, step),
        loss=loss_bytes(shape, step),
        peak=fixed + step_bytes(shape, step, recomputed) + (host if machine.is_host else 0),
        recomputed=recomputed,
        host=host,
    )


def fits(memory: Memory, machine: Machine) -> bool:
    """Tell whether a process has room, on its device and for what it parks in host memory."""
    parks = machine.host is None or memory.host <= USABLE * machine.host
    return memory.peak <= USABLE * machine.memory and parks


def planned_flops(base: Base, config: FinetuneConfig, recomputed: int) -> Flops:
    """Count the arithmetic of one pass on one process."""
    full = config.train.what == FULL
    return pass_flops(base.shape, planned_pass(base, config), recomputed, full=full)


def longest_sequence(base: Base, config: FinetuneConfig, machine: Machine) -> int:
    """Find the tokens in the longest row that fits; 0 when not even 64 do.

    A multiple of 64, of the context ranks, and of 1024 where that many fit.
    """
    unit = 64 * config.parallel.context

    def enough(units: int) -> bool:
        train = replace(config.train, seq_length=units * unit)
        longer = replace(config, train=train)
        return fits(planned_memory(base, longer, machine), machine)

    units = _largest(enough, _LONGEST // unit)
    coarse = 1024 * config.parallel.context // unit
    return (units // coarse * coarse if units >= coarse else units) * unit


def _largest(fits: Callable[[int], bool], top: int) -> int:
    """Find the largest n in 0..top that fits, when everything below one that fits does too."""
    low, high = 0, top
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def switches(base: Base, config: FinetuneConfig, machine: Machine) -> list[Switch]:
    """Give a row for the recipe as it is, for each memory switch not on yet, and for the most
    sparing of them together."""
    reference = _arithmetic(base, config, machine)
    return [
        Switch(
            name,
            planned_memory(base, changed, machine).peak,
            longest_sequence(base, changed, machine),
            _arithmetic(base, changed, machine) / reference,
        )
        for name, changed in _changes(base, config, machine)
    ]


def _changes(
    base: Base, config: FinetuneConfig, machine: Machine
) -> Iterator[tuple[str, FinetuneConfig]]:
    """Give (what is typed, the recipe after it)."""
    yield "", config
    memory = config.memory
    wanted = memory.layers(config.train.gradient_checkpointing)
    for word in ("auto", "none", "all"):
        if wanted != word and not (word == "none" and memory.offload != "none"):
            yield f"--recompute {word}", replace(config, memory=replace(memory, recompute=word))
    sparing = _sparing(base, config, machine)
    for way in sparing.values():
        yield way.change, way.apply(config)
    if "shard" in sparing:
        sparing.pop("quantize", None)  # shares are not quantised
    together = config
    for way in sparing.values():
        together = way.apply(together)
    if len(sparing) > 1:
        yield " ".join(way.change for way in sparing.values()), together


def _sparing(base: Base, config: FinetuneConfig, machine: Machine) -> dict[str, WayOut]:
    """Choose the ways out of memory that leave row and loss as they are, by their keys.

    For a CPU too those that are a GPU's: their rows say what they would come to.
    """
    ways = ways_out(config, machine.devices, half=base.width == 2, on_gpu=True)
    if base.shape.experts_used > 1:  # whose blocks are not tiled
        ways.pop("mlp_tile", None)
    whole_rows = config.train.attention == "s2" or base.shape.eager  # which cannot be shared out
    if machine.devices == 1 or config.parallel.context > 1 or whole_rows:
        ways.pop("context")
    return {key: ways[key] for key in _SPARING if key in ways}


def _arithmetic(base: Base, config: FinetuneConfig, machine: Machine) -> float:
    """Count the operations for each token of a row on this process."""
    recomputed = planned_memory(base, config, machine).recomputed
    tokens = planned_pass(base, config).tokens
    return planned_flops(base, config, recomputed).total / tokens
