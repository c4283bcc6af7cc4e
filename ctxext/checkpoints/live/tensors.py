"""Check that the weight files hold exactly the tensors that the model is made of.

transformers fills what a file lacks with random numbers, and passes over what it does not know; it
says so in a log that can be silenced. Here it is asked, of a model that takes no memory, before
anything is loaded.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ctxext.checkpoints.config.decoder_config import decoder_config, said_of
from ctxext.checkpoints.config.decoder_part import PART
from ctxext.checkpoints.config.heads import MOST
from ctxext.checkpoints.folder import CONFIG, Source
from ctxext.checkpoints.live.quiet import quiet_transformers
from ctxext.checkpoints.weights.files import Weights, read_weights
from ctxext.checkpoints.weights.safetensors_file import DTYPE_NAMES, printable
from ctxext.errors import CtxextError
from ctxext.runs.numbers import whole

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_TORCH_NAMES = DTYPE_NAMES | {
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
_SHOWN = 3


def check_tensors(source: Source, *, trust_remote_code: bool = False) -> Weights:
    """Compare the headers of a checkpoint's weights with the model that its config describes.

    Nothing is loaded. A model that is the checkpoint's own code is looked at when it is loaded.

    Raises:
        BadInput: as `decoder_config` and `read_weights`.
        CtxextError: tensors are missing, of another shape, or none of the model's; they are named.
    """
    weights = read_weights(source.folder)
    config = decoder_config(source, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    widths = {name: getattr(text, name, None) for name in ("hidden_size", "head_dim")}
    for name in widths:  # a rope of that size is made of real numbers
        whole(widths, name, f"{source.name}/{CONFIG}", most=MOST)
    layers = getattr(text, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > len(weights.tensors):
        raise CtxextError(
            f"{source.name}/{CONFIG} asks for {layers} layers, and the weights have "
            f"{len(weights.tensors)} tensors"
        )
    if runs_own_code(config):
        return weights
    import torch

    empty = {
        name: torch.empty(
            info.shape, dtype=getattr(torch, _TORCH_NAMES.get(info.dtype, "uint8")), device="meta"
        )
        for name, (_, info) in weights.tensors.items()
    }
    with quiet_transformers(), said_of(source):
        model, report = decoder_class(config).from_pretrained(
            None,
            config=config,
            state_dict=empty,
            dtype=torch.float32,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    check_report(report, weights, source.name)
    _check_dtypes(model, weights, source.name)
    return replace(weights, shared=_shared(model))


def _shared(model: Any) -> tuple[str, ...]:
    """List modules that have one weight together with others; the head is none of them."""
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and id(module) not in ends:
            paths.setdefault(id(weight), []).append(path)
    return tuple(path for alike in paths.values() if len(alike) > 1 for path in alike)


def _check_dtypes(model: Any, weights: Weights, name: str) -> None:
    """Refuse whole numbers where the model has real ones: transformers would cast codes in silence.

    Raises:
        CtxextError: a parameter is stored as something else than a floating dtype.
    """
    prefix = f"{model.base_model_prefix}."
    real = {key for key, each in model.named_parameters() if each.dtype.is_floating_point}
    codes = {
        key: info.dtype
        for key, (_, info) in weights.tensors.items()
        if info.dtype not in DTYPE_NAMES and real & {key, prefix + key, key.removeprefix(prefix)}
    }
    if codes:
        dtype = codes[min(codes)]
        raise CtxextError(
            f"the weights of {name} hold {_named(codes)} as {dtype}, which are codes and no "
            "numbers of the model",
            "use the checkpoint before it was quantised",
        )


def decoder_class(config: "PretrainedConfig") -> Any:
    """Find the class of transformers that models a config."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    both = hasattr(config, PART) and type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    models = (MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if both else MODEL_FOR_CAUSAL_LM_MAPPING)[
        type(config)
    ]
    return models[0] if isinstance(models, tuple | list) else models


def runs_own_code(config: "PretrainedConfig") -> bool:
    """Tell whether a config comes from Python that the checkpoint brings.

    That is neither transformers nor ctxext, which has the laboratory's decoder.
    """
    return not type(config).__module__.startswith(("transformers.", "ctxext."))


def check_report(report: Mapping[str, Any], weights: Weights, name: str) -> None:
    """Check by a load report of transformers that every tensor found its place.

    What a class ignores by design (old rotary buffers, a tied head) transformers has left out of
    it; the masks that old GPT checkpoints store are left out here.

    Raises:
        CtxextError: one did not.
    """
    tensors = weights.tensors
    unexpected = {
        key for key in report["unexpected_keys"] if not (key in tensors and _is_mask(key, tensors))
    }
    missing = set(report["missing_keys"])
    misshapen = {
        f"{printable(key)} ({list(stored)} stored, {list(wanted)} asked for)"
        for key, stored, wanted in report["mismatched_keys"]
    }
    told = []
    if missing:
        told.append(f"lack {_named(missing)}")
    if misshapen:
        told.append(f"have another shape of {_named(misshapen, escape=False)}")
    if unexpected:
        told.append(f"have no place in the model for {_named(unexpected)}")
    if report["error_msgs"]:
        told.append(f"cannot be read into it: {printable(str(report['error_msgs'][0]))}")
    if told:
        raise CtxextError(
            f"the weights of {name} are not those of the model in its {CONFIG}: they "
            + "; they ".join(told),
            "fetch the checkpoint again, or mend the config that was changed",
        )


def _is_mask(key: str, tensors: Mapping[str, Any]) -> bool:
    """Tell whether a tensor is a causal mask, or a number in its place, as in old checkpoints."""
    _, info = tensors[key]
    if key.endswith("masked_bias"):
        return bool(info.elements == 1)
    return key.endswith((".attn.bias", ".attention.bias")) and info.shape[:2] == (1, 1)


def _named(names: Collection[str], *, escape: bool = True) -> str:
    """Write `4 tensors: a, b, c and 1 more`."""
    first = sorted(names)[:_SHOWN]
    shown = ", ".join(printable(name) if escape else name for name in first)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}: {shown}{more}"


@contextmanager
def stored_tensors(weights: Weights) -> Iterator[dict[str, Any]]:
    """Open the tensors of a checkpoint by name; each is read when it is asked for."""
    from safetensors import safe_open

    with ExitStack() as held:
        tensors = {}
        for file, header in weights.shards.items():
            opened = held.enter_context(safe_open(weights.folder / file, framework="pt"))
            tensors.update({name: opened.get_slice(name) for name in header.tensors})
        yield tensors
