"""Tell quantised weights by config or tensors, and refuse them where numbers are needed."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ctxext.checkpoints.folder import Source, read_config
from ctxext.checkpoints.weights.files import Weights, read_weights
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.errors import BadInput

# The last part, or parts, of tensors that only quantised layers have.
_PACKED = (
    ".qweight", ".qzeros", ".g_idx", ".weight_packed", ".weight_scale", ".weight_scale_inv",
    ".weight_zero_point", ".absmax", ".quant_map", ".SCB", ".weight_format",
)  # fmt: skip
_WAYS_OUT = {
    "merge": "merge into the unquantised one",
    "train": "train the unquantised one (--quantize 4bit quantises it while it is loaded)",
    "evaluate": "evaluate the unquantised one",
    "fold": "fold the attention factor into the unquantised one",
}


def quantised_by(config: Mapping[str, Any], tensors: Iterable[str] = ()) -> str | None:
    """Name the method by which a checkpoint's weights are quantised (`gptq`); None = they are not.

    Args:
        tensors: names of its tensors, which tell where the config does not.
    """
    for key in ("quantization_config", "compression_config", "quantization"):
        block = config.get(key)
        if not isinstance(block, Mapping) or not block:
            continue
        if isinstance(block.get("quant_method"), str) and block["quant_method"]:
            return printable(block["quant_method"], 40)
        if any(block.get(flag) for flag in ("load_in_4bit", "load_in_8bit")):
            return "bitsandbytes"
        return "mlx" if "group_size" in block and "bits" in block else f"see {key}"
    for name in tensors:
        if name.endswith(_PACKED) or ".quant_state." in name:
            return f"it holds {printable(name, 80)}"
    return None


def read_unquantised(source: Source, purpose: Literal["merge", "train", "evaluate"]) -> Weights:
    """Read the weights of a checkpoint whose numbers are needed as they are.

    Raises:
        BadInput: they are quantised; and as `read_weights`.
    """
    config, _ = read_config(source)
    refuse_quantised(config, source, purpose)  # first: such shards may hold what is not read here
    weights = read_weights(source.folder)
    refuse_quantised(config, source, purpose, weights)
    return weights


def refuse_quantised(
    config: Mapping[str, Any],
    source: Source,
    purpose: Literal["merge", "train", "evaluate", "fold"],
    weights: Weights | None = None,
) -> None:
    """Raise `BadInput` if the config, or given weights, say that the checkpoint is quantised."""
    method = quantised_by(config, weights.tensors if weights else ())
    if method is not None:
        what = "base" if purpose == "merge" else f"checkpoint {source.name}"
        raise BadInput(f"the {what} is quantised ({method}): {_WAYS_OUT[purpose]}")
