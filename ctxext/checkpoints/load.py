"""A checkpoint as a live transformers model: safetensors only, rope checked against its config."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ctxext.checkpoints.check import check_live_rope, reset_rotary
from ctxext.checkpoints.detect import Position
from ctxext.checkpoints.dtype import Dtype, DtypeName, compute_dtype, has_grouped_keys
from ctxext.checkpoints.folder import Source, read_config
from ctxext.checkpoints.quantised import read_unquantised
from ctxext.errors import BadInput, CtxextError
from ctxext.launch import Launch
from ctxext.progress import Note, unheard

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> "torch.device":
    """`--device`: `auto` is the first GPU, else the CPU.

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
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"--device {name} is not to be had here") from error
    return device


def device_of(name: str, launch: Launch) -> "torch.device":
    """Where this process computes: what `--device` names, or the GPU of its rank.

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
    """The dtype in which a checkpoint computes on a live device (`dtype.compute_dtype`).

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
        source: the checkpoint.
        position: what `detect` read in its config.
        dtype: `auto` = bfloat16 on a GPU, float32 on a CPU (bfloat16 is slower there).
        device: where it will compute, which decides what `auto` is; None = CPU.
        in_host_memory: it stays there for now: the caller moves what it needs.
        trust_remote_code: run the checkpoint's own Python code.
        quantization: transformers' configuration of it; `device` is then a GPU.
        on_note: told what the choice of a dtype means here.

    Raises:
        BadInput: it brings its own code and that is not allowed; weights missing; a GPU without
            bfloat16; a live rope unlike the one that `detect` read.
        CtxextError: corrupt weights.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM

    read_unquantised(source, "evaluate")
    target = device or torch.device("cpu")
    chosen = dtype_on(dtype, source, position, target, quantized=quantization is not None)
    for note in chosen.notes:
        on_note(note)
    # Only named where it is wanted: None would still mean something to transformers.
    quantized = (
        {"quantization_config": quantization, "device_map": {"": target}} if quantization else {}
    )
    with quiet_transformers():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source.folder,
                dtype="auto" if chosen.name == "auto" else getattr(torch, chosen.name),
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                local_files_only=True,
                # Looked for where no file can lie: an adapter in the folder is not applied.
                adapter_kwargs={"subfolder": os.devnull},
                **quantized,
            )
        except (
            ValueError, OSError, KeyError, TypeError, ZeroDivisionError, RuntimeError,
            StrictDataclassError,
        ) as error:  # fmt: skip
            raise _load_error(source, error) from error
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


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def load_tokenizer(source: Source, *, trust_remote_code: bool = False) -> Any:
    """The checkpoint's tokenizer.

    Raises:
        BadInput: there is none, or it brings its own code and that is not allowed.
    """
    if not any((source.folder / name).exists() for name in _TOKENIZER_FILES):
        raise BadInput(f"{source.name} has no tokenizer", "copy the base's tokenizer files there")
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            return AutoTokenizer.from_pretrained(
                source.folder, trust_remote_code=trust_remote_code, local_files_only=True
            )
        except (
            ValueError, OSError, KeyError, TypeError, AttributeError, ImportError,
            StrictDataclassError,
        ) as error:  # fmt: skip
            raise _load_error(source, error, what="tokenizer") from error


def _load_error(source: Source, error: Exception, what: str = "model") -> CtxextError:
    words = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in str(error):
        return BadInput(
            f"{source.name} brings its own Python code for its {what}, which is not run",
            "read the code, then add --trust-remote-code",
        )
    return BadInput(f"transformers cannot load the {what} of {source.name}: {words[:300]}")


def reset_dynamic_rope(model: Any) -> None:
    """Forget the longest sequence seen: dynamic scaling would keep its base for shorter ones."""
    for module in model.modules():
        reset_rotary(module)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own bars, load reports and talk of its next version off the terminal."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
