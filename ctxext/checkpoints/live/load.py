"""Load a checkpoint as a transformers model: safetensors only, rope checked by its config."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ctxext.checkpoints.config.decoder_config import decoder_config, said_of
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.dtype import Dtype, DtypeName, compute_dtype, has_grouped_keys
from ctxext.checkpoints.folder import CONFIG, Source, read_config
from ctxext.checkpoints.live.check import check_live_rope
from ctxext.checkpoints.live.quiet import quiet_transformers
from ctxext.checkpoints.live.rotary import all_live_ropes
from ctxext.checkpoints.live.tensors import (
    check_report,
    check_tensors,
    decoder_class,
    runs_own_code,
    stored_tensors,
)
from ctxext.checkpoints.weights.files import Weights
from ctxext.checkpoints.weights.safetensors_file import DTYPE_NAMES
from ctxext.errors import BadInput, CtxextError, about, shown
from ctxext.machine.launch import Launch
from ctxext.progress import Note, unheard

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> "torch.device":
    """Pick the device of `--device`: `auto` is the first GPU, else the CPU.

    Raises:
        BadInput: no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BadInput(f"--device {shown(name)} is not to be had here") from error
    if device.type == "meta":
        raise BadInput("--device meta holds no numbers", "there is auto, cpu, cuda, cuda:N and mps")
    return device


def device_of(name: str, launch: Launch) -> "torch.device":
    """Pick where this process computes: what `--device` names, or the GPU of its rank.

    Raises:
        BadInput: no such device here.
    """
    import torch

    if launch.ranks > 1:
        from accelerate.state import PartialState

        device: torch.device = PartialState().device
        return device
    place = pick_device(name)
    if place.type == "cuda" and place.index is not None:
        torch.cuda.set_device(place)  # which accelerate follows
    return place


def dtype_on(
    asked: DtypeName,
    source: Source,
    position: Position,
    device: "torch.device",
    *,
    quantized: bool = False,
) -> Dtype:
    """Choose the dtype in which a checkpoint computes on a live device (`dtype.compute_dtype`).

    Raises:
        BadInput: bfloat16 on a GPU that cannot.
    """
    import torch

    cuda = device.type == "cuda"
    return compute_dtype(
        asked,
        stored=position.dtype,
        device_type=device.type,
        capability=torch.cuda.get_device_capability(device) if cuda else None,
        grouped=has_grouped_keys(read_config(source)[0]),
        quantized=quantized,
    )


def load_model(
    source: Source,
    position: Position,
    *,
    dtype: DtypeName = "auto",
    device: "torch.device | None" = None,
    in_host_memory: bool = False,
    trust_remote_code: bool = False,
    quantization: Any = None,
    on_note: Note = unheard,
) -> Any:
    """Load a causal language model and make sure that it rotates as its config says.

    Args:
        position: what `detect` read in its config.
        dtype: `auto` = bfloat16 on a GPU, float32 on a CPU (bfloat16 is slower there).
        device: where it will compute, which decides what `auto` is; None = CPU.
        in_host_memory: it stays there for now: the caller moves what it needs.
        trust_remote_code: run the checkpoint's own Python code.
        quantization: transformers' configuration of it; `device` is then a GPU.
        on_note: told what the choice of a dtype means here.

    Raises:
        BadInput: it brings its own code and that is not allowed; no weight files; a GPU without
            bfloat16; a live rope unlike the one that `detect` read.
        CtxextError: corrupt weights, or tensors that are not the model's (`check_tensors`).
    """
    import torch

    with about(source.folder):
        weights = check_tensors(source, trust_remote_code=trust_remote_code)
    config = decoder_config(source, trust_remote_code=trust_remote_code)
    target = device or torch.device("cpu")
    computed = dtype_on(dtype, source, position, target, quantized=quantization is not None)
    for note in computed.notes:
        on_note(note)
    # Only named where it is wanted: None would still mean something to transformers.
    chosen: dict[str, Any] = {
        "dtype": _torch_dtype(computed.name, position, weights),
        "output_loading_info": True,
    }
    if quantization is not None:
        chosen |= {"quantization_config": quantization, "device_map": {"": target}}
    with quiet_transformers(), said_of(source):
        model, report = _loaded(source, config, weights, chosen)
    check_report(report, weights, source.name)
    if quantization is None and not in_host_memory:
        model.to(target)
    model.eval()
    try:
        check_live_rope(model, position, where=source.name)
    except CtxextError as error:
        raise BadInput(
            f"ctxext reads the rope of {source.name} otherwise than transformers does: {error}"
        ) from error
    return model


def _loaded(source: Source, config: Any, weights: Weights, chosen: Mapping[str, Any]) -> Any:
    """Load the model by `from_pretrained` (`chosen`: its arguments), with its load report."""
    if runs_own_code(config):
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(
            source.folder, use_safetensors=True, trust_remote_code=True, local_files_only=True,
            # Looked for where no file can lie: an adapter in the folder is not applied.
            adapter_kwargs={"subfolder": os.devnull}, **chosen,
        )  # fmt: skip
    # Of the folder nothing but the tensors that were checked: no adapter, no kernel, no other file
    # that happens to lie there or that the config names.
    with stored_tensors(weights) as tensors:
        model, report = decoder_class(config).from_pretrained(
            None, config=config, state_dict=tensors, generation_config=_generation_config(source),
            **chosen,
        )  # fmt: skip
    model.config.name_or_path = str(source.folder)
    model.config.architectures = [type(model).__name__]
    return model, report


def _torch_dtype(name: DtypeName, position: Position, weights: Weights) -> "torch.dtype":
    """Look up a dtype; `auto` is what the config says the weights are, or most floats are."""
    import torch

    names = DTYPE_NAMES.values()
    stored = position.dtype if position.dtype in names else weights.dtype
    dtype: torch.dtype = getattr(torch, (stored or "float32") if name == "auto" else name)
    return dtype


def _generation_config(source: Source) -> Any:
    """Read how the checkpoint is to be sampled from, as transformers would find it."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(source.folder, local_files_only=True)
    except OSError:  # there is none
        return GenerationConfig.from_pretrained(
            source.folder, config_file_name=CONFIG, _from_model_config=True, local_files_only=True
        )


def reset_dynamic_rope(model: Any) -> None:
    """Forget the longest sequence seen: dynamic scaling would keep its base for shorter ones."""
    for rope in all_live_ropes(model):
        rope.reset()
