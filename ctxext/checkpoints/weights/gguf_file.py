"""Write a rope into a GGUF file: per-pair factors as the tensor `rope_freqs.weight`.

llama.cpp divides the frequency of pair i by factor i, on top of what `rope.scaling.*` says
(ggml-org/llama.cpp: src/llama-model.cpp `get_rope_factors`, src/llama-context.cpp; its converter
writes the tensor for llama3 only, conversion/llama.py). Everything else of the file stays byte for
byte, the bytes of all tensors in their places.
"""

import importlib
import logging
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Final

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.encodings.rope import inv_freq_of
from ctxext.encodings.rope_types import rope_type_facts
from ctxext.errors import BadInput, CtxextError, about_its_path, first_line
from ctxext.runs.rows.row import Row

FACTORS: Final = "rope_freqs.weight"
# The architectures whose graph asks for the tensor, and the families that are converted to them.
_FAMILIES: Final = {
    "llama": ("llama", "mistral", "mixtral"),
    "arcee": ("arcee",),
    "granite": ("granite",),
    "apertus": ("apertus",),
}
_U32, _F32, _STRING = 4, 6, 8  # ggml/include/gguf.h: gguf_type
_ALIGNMENT = 32  # its default
_TENSOR_F32 = 0  # ggml/include/ggml.h: ggml_type
_CODES: Final = {_U32: "<I", _F32: "<f"}
# What llama.cpp would scale by beside the factors.
_SCALING: Final = (
    "rope.scale_linear", "rope.scaling.factor", "rope.scaling.alpha",
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_log_multiplier",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GgufChange(Row):
    """What was, or would be, written into a GGUF file.

    Attributes:
        factors: divisors of the frequencies, one for each pair.
        changed: key -> [before, after]; None = is not there.
    """

    file: str
    architecture: str
    factors: tuple[float, ...]
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@about_its_path
def plan_gguf(path: Path, position: Position) -> GgufChange:
    """Work out what a GGUF file has to say to turn as a checkpoint does.

    Args:
        path: converted from it, or from its base.
        position: of the extended checkpoint.

    Raises:
        BadInput: no GGUF file, of another model, or of an architecture that has no such factors;
            a rope that changes with the length; gguf is not installed.
    """
    reader = _read(path)
    name, rope = printable(path.name), position.rope
    if rope is None or rope.inv_freq is None or rope.attention_factor is None:
        raise BadInput(f"--gguf: the rope of this {position.model_type} is unknown")
    rope_type, block = rope.block.rope_type, rope.block
    if rope_type_facts(rope_type).keeps_window:
        raise BadInput(f"--gguf: {rope_type} scaling follows the length, and a GGUF file cannot")
    architecture = _checked_architecture(reader, name, position)
    plain = inv_freq_of(replace(rope.spec, rope_theta=block.rope_theta))
    factors = tuple(a / b for a, b in zip(plain, rope.inv_freq, strict=True))
    wanted: dict[str, Any] = {
        "context_length": position.window.current,
        "rope.freq_base": float(block.rope_theta),
        "rope.scaling.type": "none",
        **dict.fromkeys(_SCALING),
    }
    if rope.attention_factor != 1:
        wanted["rope.scaling.attn_factor"] = rope.attention_factor
    changed = {}
    for key, value in wanted.items():
        before = _value(reader, f"{architecture}.{key}")
        if before != (value if not isinstance(value, float) else _as_float32(value)):
            changed[f"{architecture}.{key}"] = (before, value)
    warnings: tuple[str, ...] = ()
    if block.short_factor != block.long_factor:
        warnings = (
            "llama.cpp turns texts of every length by the long factors; transformers takes the "
            f"short ones up to {position.window.original} tokens",
        )
    return GgufChange(
        file=path.name, architecture=architecture, factors=factors, changed=changed,
        warnings=warnings,
    )  # fmt: skip


@about_its_path
def write_gguf(path: Path, change: GgufChange) -> None:
    """Write the factors and keys into a file: beside it, then renamed.

    Raises:
        BadInput: as `plan_gguf`.
        CtxextError: the disk is full.
    """
    reader, beside = _read(path), path.with_name(f".{path.name}.ctxext-tmp-{os.getpid()}")
    free, size = shutil.disk_usage(path.parent).free, path.stat().st_size
    if size > free:
        raise CtxextError(
            f"--gguf {path} needs {size / 2**20:,.0f} MiB beside it and the disk has "
            f"{free / 2**20:,.0f} MiB left"
        )
    try:
        with path.open("rb") as source, beside.open("wb") as file:
            _write(reader, source, file, change)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, beside)
        beside.replace(path)
    except OSError as error:
        raise CtxextError(
            f"--gguf {path} cannot be written: {error.strerror}", "the old file is as it was"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _read(path: Path) -> Any:
    """Parse the header of a file.

    Raises:
        BadInput: it cannot be written anew, or is none that llama.cpp of this machine would read.
    """
    try:
        gguf = importlib.import_module("gguf")
    except ImportError as error:
        raise BadInput(
            "--gguf needs gguf-py, which is not installed", "pip install 'ctxext[gguf]'"
        ) from error
    name = printable(path.name)
    if not path.exists():
        raise BadInput(f"--gguf {path} does not exist", "convert the checkpoint first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise BadInput(f"--gguf {path}: no permission to write {path.parent}")
    if path.is_symlink() or not path.is_file():
        raise BadInput(f"--gguf {path} is not a regular file", "copy it to where it may be changed")
    logging.getLogger("gguf").setLevel(logging.ERROR)
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise BadInput(
            f"{name} cannot be read as a GGUF file: {first_line(error)}", "convert it again"
        ) from error
    if reader.byte_order != "I" or not reader.tensors:
        raise BadInput(f"{name} is for machines of another byte order, or holds no tensors")
    if (_value(reader, "split.count") or 1) != 1:
        raise BadInput(
            f"{name} is one part of a split model",
            "put the parts together first: llama-gguf-split --merge",
        )
    return reader


def _value(reader: Any, key: str) -> Any:
    """Read a key of the file; None where it is not there."""
    known = reader.fields.get(key)
    return None if known is None else known.contents()


def _as_float32(value: float) -> float:
    number: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return number


def _checked_architecture(reader: Any, name: str, position: Position) -> str:
    """Return the file's architecture, once it is sure that the file is of this model.

    Raises:
        BadInput: it is not, or nothing in llama.cpp would read the factors.
    """
    architecture = str(_value(reader, "general.architecture"))
    shown = printable(architecture, 40)
    if architecture not in _FAMILIES:
        raise BadInput(
            f"--gguf: {name} is of architecture {shown}, for which llama.cpp reads no {FACTORS}",
            f"architectures that it reads them for: {', '.join(_FAMILIES)}",
        )
    if position.model_type not in _FAMILIES[architecture]:
        raise BadInput(
            f"--gguf: {name} is of architecture {shown}, and the checkpoint is of type "
            f"{position.model_type}"
        )
    turning, rope = _turning(reader, architecture), position.rope
    wanted = rope.spec.rotary_dim if rope else 0
    layers = _value(reader, f"{architecture}.block_count")
    if (turning, layers) != (wanted, len(position.layers)):
        raise BadInput(
            f"--gguf: {name} has {layers} layers and turns {turning} dims of a head, and the "
            f"checkpoint {len(position.layers)} and {wanted}",
            "give the file that was converted from this checkpoint",
        )
    for tensor in reader.tensors:
        plain = (int(tensor.tensor_type), tensor.n_elements) == (_TENSOR_F32, wanted // 2)
        if tensor.name == FACTORS and not plain:
            raise BadInput(f"--gguf: the {FACTORS} of {name} is not float32 of one for each pair")
        if tensor.name.startswith("rope_factors_"):
            raise BadInput(f"--gguf: {name} has {tensor.name} already, for longrope of its own")
    return architecture


def _turning(reader: Any, architecture: str) -> int | None:
    """Read how many dims of a head turn, as llama.cpp does where the file leaves it out."""
    for key in ("rope.dimension_count", "attention.key_length"):
        if (dims := _value(reader, f"{architecture}.{key}")) is not None:
            return int(dims)
    width, heads = (
        _value(reader, f"{architecture}.{key}")
        for key in ("embedding_length", "attention.head_count")
    )
    whole = isinstance(width, int) and isinstance(heads, int) and heads > 0
    return width // heads if whole else None


def _write(reader: Any, source: IO[bytes], file: IO[bytes], change: GgufChange) -> None:
    keys, kept = {key: after for key, (_, after) in change.changed.items()}, []
    first = reader.tensors[0].field.offset
    fields = [each for each in reader.fields.values() if not each.name.startswith("GGUF.")]
    ends = [*(each.offset for each in fields[1:]), first]
    for each, end in zip(fields, ends, strict=True):
        if each.name in keys:
            if (value := keys.pop(each.name)) is not None:
                kept.append(_packed(each.name, value))
        else:
            kept.append(_slice(source, each.offset, end))
    kept += [_packed(key, value) for key, value in keys.items() if value is not None]
    old = next((each for each in reader.tensors if each.name == FACTORS), None)
    last = reader.tensors[-1]
    infos = _slice(source, first, last.field.offset + sum(p.nbytes for p in last.field.parts))
    ends_at = max(each.data_offset + each.n_bytes for each in reader.tensors) - reader.data_offset
    place = _padded(ends_at, reader.alignment)
    raw = struct.pack(f"<{len(change.factors)}f", *change.factors)
    if old is None:
        infos += _string(FACTORS) + struct.pack("<IQIQ", 1, len(change.factors), _TENSOR_F32, place)
    else:
        place = old.data_offset - reader.data_offset
    count = len(reader.tensors) + (old is None)
    header = _slice(source, 0, 8) + struct.pack("<QQ", count, len(kept)) + b"".join(kept) + infos
    file.write(header + b"\0" * (_padded(len(header), reader.alignment) - len(header)))
    start = file.tell()
    source.seek(reader.data_offset)
    for block in _blocks(source, ends_at):
        file.write(block)
    file.write(b"\0" * max(0, place - ends_at))
    file.seek(start + place)
    file.write(raw)
    file.seek(0, os.SEEK_END)
    file.write(b"\0" * (_padded(file.tell() - start, reader.alignment) + start - file.tell()))


def _blocks(source: IO[bytes], size: int) -> Iterator[bytes]:
    while size > 0:
        block = source.read(min(size, 1 << 24))
        if not block:
            raise CtxextError(f"{source.name} became shorter while it was read")
        size -= len(block)
        yield block


def _padded(size: int, alignment: int) -> int:
    return -(-size // int(alignment)) * int(alignment)


def _slice(source: IO[bytes], start: int, end: int) -> bytes:
    source.seek(start)
    return source.read(end - start)


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _packed(key: str, value: str | int | float) -> bytes:
    """Write one key as the format has it: its name, its type, its value."""
    if isinstance(value, str):
        return _string(key) + struct.pack("<I", _STRING) + _string(value)
    code = _F32 if isinstance(value, float) else _U32
    return _string(key) + struct.pack("<I", code) + struct.pack(_CODES[code], value)
