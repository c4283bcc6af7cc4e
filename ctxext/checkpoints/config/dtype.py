"""Choose the dtype a model computes in, by the device and not by how it was stored.

On a GPU that is bfloat16. A float16 base under bfloat16 autocast gives float32 wherever the two
meet, so that activations double, and a float32 base has no fused attention for grouped keys. On a
CPU it is float32, which is faster there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ctxext.errors import BadInput, shown

DtypeName = Literal["auto", "bfloat16", "float16", "float32"]
DtypeWord = Literal["auto", "bfloat16", "float16", "float32", "bf16", "fp16", "fp32"]
"""What `--dtype` takes."""
_SHORT = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
_AMPERE = (8, 0)  # the first that computes bfloat16 itself, with fused attention


@dataclass(frozen=True)
class Dtype:
    """The dtype that was chosen.

    Attributes:
        name: `auto` = as stored, on devices that nothing is known of here.
        notes: sentences for the user: what is other than stored, what will be slow or large.
    """

    name: DtypeName
    notes: tuple[str, ...] = ()


def check_dtype(name: str, *, flag: str = "--dtype") -> DtypeName:
    """Read `--dtype`; bf16, fp16 and fp32 are accepted.

    Raises:
        BadInput: another word.
    """
    name = _SHORT.get(name, name)
    if name in ("auto", "bfloat16", "float16", "float32"):
        return name  # type: ignore[return-value]
    raise BadInput(f"{flag} is {shown(name)}, and has to be auto, bfloat16, float16 or float32")


def has_grouped_keys(config: Mapping[str, Any]) -> bool:
    """Tell whether several query heads share a key head, by a config.json."""
    text = config.get("text_config") or config
    heads, keys = text.get("num_attention_heads"), text.get("num_key_value_heads")
    return bool(heads and keys and heads != keys)


def compute_dtype(
    asked: DtypeName,
    *,
    stored: str | None,
    device_type: str,
    capability: tuple[int, int] | None = None,
    grouped: bool = False,
    quantized: bool = False,
) -> Dtype:
    """Choose the dtype that `--dtype` (`asked`) comes to on a device.

    Args:
        stored: what the config says that the weights are stored in.
        device_type: as torch calls it: `cpu`, `cuda`, `mps`.
        capability: of a CUDA device, e.g. (8, 0); None = not known, and not an old one.
        grouped: `has_grouped_keys`.
        quantized: the weights are held in 4 bits.

    Raises:
        BadInput: bfloat16 on a GPU that cannot.
    """
    if device_type == "cpu":
        if asked == "auto":
            return Dtype("bfloat16" if quantized else "float32")
        return Dtype(asked)
    if device_type != "cuda":
        return Dtype(asked)
    name: DtypeName = "bfloat16" if asked == "auto" else asked
    old = capability is not None and capability < _AMPERE
    if name == "bfloat16" and old:
        raise BadInput(
            "this GPU (compute capability {}.{}) has no bfloat16: torch would emulate it, without "
            "fused attention".format(*(capability or ())),
            "take a GPU of compute capability 8.0 or higher (A100, RTX 30 and later), or --device "
            "cpu; evaluations also take --dtype float16",
        )
    notes = []
    if asked == "auto" and stored in ("float16", "float32"):
        notes.append(f"stored in {stored}, computed in bfloat16, as --dtype auto does on a GPU")
    if grouped and (name == "float32" or old):
        notes.append(
            f"a GPU has no fused attention for grouped keys in {name}"
            f"{' before compute capability 8.0' if name != 'float32' else ''}: memory grows with "
            f"the square of the length{'; --dtype bfloat16 has one' * (not old)}"
        )
    return Dtype(name, tuple(notes))
