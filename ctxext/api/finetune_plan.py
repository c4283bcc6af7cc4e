"""`ctxext finetune --dry-run`: what a run takes, on this machine or on a card by its name."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctxext.api._arguments import checked
from ctxext.api.finetune import (
    at_length,
    check_apart,
    check_targets,
    check_what,
    short_warmups,
    window_of,
)
from ctxext.checkpoints.config.dtype import (
    DtypeName,
    DtypeWord,
    check_dtype,
    compute_dtype,
    has_grouped_keys,
)
from ctxext.checkpoints.config.quantised import refuse_quantised
from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.live.load import pick_device
from ctxext.checkpoints.live.tensors import check_tensors
from ctxext.checkpoints.live.tokenizer import missing_tokenizer
from ctxext.checkpoints.opened import Opened, open_checkpoint, tokenizer_of
from ctxext.checkpoints.weights.files import tied_head
from ctxext.checkpoints.weights.merge import check_mergeable
from ctxext.checkpoints.weights.safetensors_file import dtype_bytes
from ctxext.data.cache import check_cache_folder
from ctxext.errors import BadInput, shown
from ctxext.evaluation.texts import check_texts, evaluation_text, of_eval_data
from ctxext.machine.gpus import Gpu, get_gpu
from ctxext.runs.recipe.begun import RunModel, settle
from ctxext.runs.recipe.config import FinetuneConfig, TrainConfig
from ctxext.training.estimate.memory import Shape, model_parameters
from ctxext.training.estimate.plan import (
    FIRST_PASS,
    Base,
    Machine,
    Memory,
    Switch,
    fits,
    longest_sequence,
    planned_flops,
    planned_memory,
    planned_pass,
    switches,
    trained_parameters,
)
from ctxext.training.estimate.rates import Rates
from ctxext.training.model.run_dtype import RunDtype, run_dtype
from ctxext.training.run.stages import Stage, named, stages_of

_SHARE = 0.4  # of a card's stated peak: what good training code reaches, and not measured here
_MOST_GPUS = 2**16
_CUDA_RUNTIME = 700 * 2**20  # context, cuBLAS and the allocator's slack; not measured here


@dataclass(frozen=True)
class Stint:
    """The steps of a run that are alike: all of them, or those of one stage.

    Attributes:
        name: `stages[0]`; empty for a run without stages.
        seq_length: tokens in a row.
        rows_per_step: read by all processes in one optimizer step.
        seconds_per_step: that all processes take together.
        validation_seconds: of all measurements on the way.
    """

    name: str
    seq_length: int
    steps: int
    rows_per_step: int
    seconds_per_step: float
    validation_seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return self.steps * self.rows_per_step * self.seq_length

    @property
    def seconds(self) -> float:
        return self.steps * self.seconds_per_step + self.validation_seconds

    def to_dict(self) -> dict[str, Any]:
        return {
            "stage": self.name,
            "seq_length": self.seq_length,
            "steps": self.steps,
            "rows_per_step": self.rows_per_step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "seconds_per_step": self.seconds_per_step,
            "validation_seconds": self.validation_seconds,
        }


@dataclass(frozen=True)
class FinetunePlan:
    """What a fine-tuning run will take; `to_dict` is its JSON document.

    Attributes:
        stints: stage by stage; one where there are no stages.
        largest: the stint that memory, switches and `longest` speak of: it needs the most memory.
        window: that the checkpoint reads in it; None where none is stated.
        speed_source: where the time comes from, in words.
        longest: tokens in a row that fit with the recipe's switches; 0 = none.
        extends: the recipe extends the checkpoint first.
    """

    model: str
    machine: Machine
    dtype: str
    stints: tuple[Stint, ...]
    largest: Stint
    window: int | None
    layers: int
    parameters: int
    trained: int
    memory: Memory
    speed_source: str
    longest: int
    switches: tuple[Switch, ...]
    warnings: tuple[str, ...]
    extends: bool = False

    @property
    def steps(self) -> int:
        return sum(stint.steps for stint in self.stints)

    @property
    def tokens(self) -> int:
        """Tokens that the whole run trains on."""
        return sum(stint.tokens for stint in self.stints)

    @property
    def seconds(self) -> float:
        """Seconds that the whole run takes."""
        return sum(stint.seconds for stint in self.stints)

    @property
    def validation_seconds(self) -> float:
        """Seconds of them that validation takes."""
        return sum(stint.validation_seconds for stint in self.stints)

    @property
    def tokens_per_second(self) -> float:
        """Tokens that are trained on in a second of training."""
        return self.tokens / (self.seconds - self.validation_seconds)

    @property
    def memory_assumes(self) -> str | None:
        """Name the setting of the environment with which the peak is that of tensors alone."""
        return "MALLOC_MMAP_THRESHOLD_=65536" if self.machine.is_host else None

    @property
    def fits(self) -> bool:
        return fits(self.memory, self.machine)

    def to_dict(self) -> dict[str, Any]:
        memory, machine = self.memory, self.machine
        return {
            "schema": "ctxext.finetune-plan/1",
            "model": self.model,
            "machine": {
                "name": machine.name,
                "memory_bytes": machine.memory,
                "devices": machine.devices,
            },
            "dtype": self.dtype,
            "seq_length": self.largest.seq_length,
            "window": self.window,
            "steps": self.steps,
            "tokens": self.tokens,
            "stages": [stint.to_dict() for stint in self.stints],
            "parameters": self.parameters,
            "trained_parameters": self.trained,
            "memory": {
                "parts": memory.parts(),
                "peak_bytes": memory.peak,
                "host_bytes": memory.host,
                "host_available_bytes": machine.host,
                "fits": self.fits,
                "recomputed_layers": memory.recomputed,
                "layers": self.layers,
                "assumes": self.memory_assumes,
            },
            "time": {
                "seconds": self.seconds,
                "validation_seconds": self.validation_seconds,
                "tokens_per_second": self.tokens_per_second,
                "source": self.speed_source,
            },
            "longest_sequence": self.longest,
            "switches": [
                {
                    "switch": row.name or "as it is",
                    "peak_bytes": row.peak,
                    "longest_sequence": row.longest,
                    "arithmetic": row.arithmetic,
                }
                for row in self.switches
            ],
            "warnings": list(self.warnings),
        }


@checked
def plan_finetune(
    model: str | None = None,
    *,
    recipe: FinetuneConfig | Mapping[str, Any],
    gpu: str | None = None,
    gpus: int | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    dtype: DtypeWord = "auto",
    device: str = "auto",
    merge_dtype: DtypeWord = "auto",
    report_to: str | None = None,
    trust_remote_code: bool = False,
) -> FinetunePlan:
    """Plan what `finetune` would take; nothing is written, no weights are read.

    Args:
        model: a checkpoint, or a folder with no more than its config.json; None = the recipe's.
        recipe: as for `finetune`; `data` may be missing.
        gpu: a card by its name (`training.gpus.GPUS`); None = this machine, whose speed is measured
            for a few seconds.
        gpus: how many; None = as many as the recipe's section `parallel` needs.

    Raises:
        BadInput: as `finetune`; a card that is not known; a config without the sizes.
    """
    said = RunModel(model, revision, tokenizer, dtype, merge_dtype, report_to)
    run_model, recipe = settle(said, recipe)
    stages = stages_of(recipe, Path())
    asked = check_dtype(run_model.dtype)
    check_dtype(run_model.merge_dtype, flag="--merge-dtype")
    if run_model.report_to is not None:
        from ctxext.training.run.trackers import check_tracker

        check_tracker(run_model.report_to)
    if gpus is not None and not 1 <= gpus <= _MOST_GPUS:
        raise BadInput(f"--gpus is {shown(gpus)}, and has to be between 1 and {_MOST_GPUS}")
    card = get_gpu(gpu) if gpu is not None else None
    opened = open_checkpoint(
        str(run_model.model), revision=run_model.revision, weights=False,
        tokenizer=run_model.tokenizer, decoder=True,
    )  # fmt: skip
    refuse_quantised(opened.config, opened.source, "train")
    configs = [_checked(stage, opened, gpus) for stage in stages]
    check_cache_folder()
    missing = _check_tokenizer(opened, trust_remote_code)
    devices = gpus or max(config.parallel.processes for config in configs)
    place: Any = pick_device(device) if card is None else None
    machine = _this_machine(place, devices) if card is None else _card(str(gpu), card, devices)
    dtypes = _dtypes(opened, asked, configs[0].train, place)
    name = dtypes.compute if dtypes.compute != "auto" else opened.position.dtype or "bfloat16"
    base = _base(opened, name, configs[0], place, trust_remote_code=trust_remote_code)
    memories = [planned_memory(base, config, machine) for config in configs]
    index = max(
        range(len(configs)), key=lambda i: (not fits(memories[i], machine), memories[i].peak, i)
    )
    config = configs[index]
    if card is not None:
        rates = Rates.of_peak(card.teraflops * 1e12, _SHARE)
        source = f"{_SHARE:.0%} of {card.teraflops:g} teraflops, which is a guess"
    else:
        from ctxext.training.memory.probe import measure_model

        rates = measure_model(
            opened.source, config.lora, planned_pass(base, config), place, name,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
        source = "a layer and a piece of the head, timed here"
    stints = tuple(
        _stint(stage.name, each, rates.seconds(planned_flops(base, each, its.recomputed)), devices)
        for stage, each, its in zip(stages, configs, memories, strict=True)
    )
    window = window_of(config, opened)
    return FinetunePlan(
        model=opened.source.name, machine=machine, dtype=name, stints=stints,
        largest=stints[index], window=window.current if window else None, layers=base.shape.layers,
        parameters=base.parameters, trained=trained_parameters(base, config),
        memory=memories[index], speed_source=source,
        longest=longest_sequence(base, config, machine),
        switches=tuple(switches(base, config, machine)),
        warnings=(*opened.warnings, *missing, *dtypes.notes, *short_warmups(stages)),
        extends=config.extend is not None,
    )  # fmt: skip


def _checked(stage: Stage, opened: Opened, gpus: int | None) -> FinetuneConfig:
    """Fill in the `seq_length` of a stage's recipe.

    Raises:
        BadInput: it cannot be run so; the stage is named.
    """
    with named(stage.name):
        config = at_length(stage.config, opened)
        config.parallel.check(gpus or config.parallel.processes, config.train.seq_length)
        check_texts(config.data)
        if config.validation.source:
            with of_eval_data():
                check_texts(evaluation_text(config))
    return config


def _on_cuda(place: Any) -> bool:
    """Tell whether a device is a GPU; None = a card of the table."""
    return place is None or place.type == "cuda"


def _dtypes(opened: Opened, asked: DtypeName, train: TrainConfig, place: Any) -> RunDtype:
    """Tell what `--dtype` will come to in the run, on a card or here."""
    if place is not None:
        from ctxext.training.model.precision import dtype_of_run

        return dtype_of_run(asked, opened.source, opened.position, place, train)
    chosen = compute_dtype(
        asked,
        stored=opened.position.dtype,
        device_type="cuda",
        grouped=has_grouped_keys(opened.config),
    )
    return run_dtype(chosen, full=train.what == "full")


def _check_tokenizer(opened: Opened, trust_remote_code: bool) -> list[str]:
    """Load the tokenizer that the run will read with; a warning where there is none yet.

    Raises:
        BadInput: it is there and does not load, or does not fit.
    """
    missing = [] if opened.tokenizer is not None else missing_tokenizer(opened.source)
    if not missing:
        tokenizer_of(opened, trust_remote_code=trust_remote_code)
    return missing


def _stint(name: str, config: FinetuneConfig, seconds: float, devices: int) -> Stint:
    """Make a stint, with `seconds` of one forward and backward pass."""
    train = config.train
    data_ranks = devices // config.parallel.context
    at_once = train.batch_size * data_ranks
    rows = at_once * train.gradient_accumulation
    # Reading alone is about a third of a pass that also goes back.
    measured = config.validation.times(train.steps) * -(-config.validation_rows // at_once)
    return Stint(
        name, train.seq_length, train.steps, rows, seconds * train.gradient_accumulation,
        measured * seconds / 3,
    )  # fmt: skip


def _card(name: str, card: Gpu, devices: int) -> Machine:
    label = f"{name} x {devices}" if devices > 1 else name
    memory, host = int(card.memory_gib * 2**30), card.host_gib * 2**30
    return Machine(label, memory, _CUDA_RUNTIME, devices, host=host)


def _base(
    opened: Opened, dtype: str, first: FinetuneConfig, place: Any, *, trust_remote_code: bool
) -> Base:
    """Read the sizes of the checkpoint, in the dtype of the run.

    Raises:
        BadInput: its config does not tell them.
    """
    width = dtype_bytes(dtype)
    if width is None:
        raise BadInput(f"--dry-run does not know how large {dtype} is", "give --dtype")
    fused = not (_on_cuda(place) and dtype == "float32" and has_grouped_keys(opened.config))
    config = opened.config.get("text_config", opened.config)
    where = f"{opened.source.name}/{CONFIG}"
    try:
        shape = Shape.of(config, where)
        if not fused:
            shape = replace(shape, eager=True)
        counted = model_parameters(shape, config, where)
    except KeyError as error:
        raise BadInput(
            f"{where} does not say {error.args[0]}, so that nothing can be planned",
            "leave out --dry-run",
        ) from error
    tied = tied_head(config)
    if opened.source.weights_local and any(opened.source.folder.glob("*.safetensors*")):
        weights = check_tensors(opened.source, trust_remote_code=trust_remote_code)
        check_mergeable(weights)
        check_targets(first, weights)
        check_apart(first, weights)
        check_what(first, opened, weights)
        counted = weights.parameters_once(tied=tied)
    return Base(shape, counted, tied, width)


def _this_machine(place: Any, devices: int) -> Machine:
    import torch

    from ctxext.machine.memory import available_bytes, host_memory, process_memory

    if place.type == "cuda":
        total = torch.cuda.get_device_properties(place).total_memory
        free = host_memory()
        host = free // devices if free is not None else None
        name = torch.cuda.get_device_name(place)
        return Machine(name, total, _CUDA_RUNTIME, devices, host=host)
    import accelerate  # noqa: F401 - what a run imports is part of its size
    import peft  # noqa: F401
    import transformers  # noqa: F401

    used = process_memory() + FIRST_PASS
    free = available_bytes(place)
    if free is None:
        raise BadInput("--dry-run: nothing says how much memory is free here", "name a --gpu")
    return Machine("this machine's CPU", (free + used) // devices, used, devices, is_host=True)
