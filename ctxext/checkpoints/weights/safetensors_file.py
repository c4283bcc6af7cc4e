"""Read safetensors headers with distrust, and write such files one tensor at a time.

The format (github.com/huggingface/safetensors): 8 bytes little-endian header length, a JSON header
`{name: {"dtype", "shape", "data_offsets": [start, end]}}`, then the bytes, without gaps.

By hand, because the safetensors library writes no file one tensor at a time, and reads headers that
are refused here.
"""

import json
import math
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ctxext.errors import BadInput, CtxextError, about_its_path, on_one_line

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1, "C64": 8,
}  # fmt: skip
DTYPE_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
"""What configs call the dtypes that weights have."""
# The format allows 100 MB. A shard of 100,000 tensors needs 12; more is an attack on our memory.
_MAX_HEADER = 16 * 1024 * 1024
_MAX_METADATA = 4 * 1024 * 1024
_MAX_ENTRY = 4096
_LFS = b"version https://git-lfs"
# A header, tensor by tensor: parsed as one JSON document, 16 MiB of `[],[],` become 400 MiB of
# objects before anything can be checked. (`*+` never goes back, so matching is linear.)
_STRING = r'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"'
_ENTRY = re.compile(
    rf"\s*+({_STRING})\s*+:\s*+(\{{[^{{}}\"]*+(?:{_STRING}[^{{}}\"]*+)*+\}})\s*+([,}}])"
)


def dtype_bytes(name: str | None) -> int | None:
    """Look up the bytes of a number by a config's or safetensors' dtype name; None = unknown."""
    codes = {known: code for code, known in DTYPE_NAMES.items()}
    return DTYPE_BYTES.get(codes.get(name or "", name or ""))


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor in a file: safetensors dtype name, shape, and bytes [start, end) of the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A file's tensors in the order of their bytes, its metadata, and where its data begins."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    data_start: int


def printable(name: str, limit: int = 120) -> str:
    """Make a name from a file safe to print: control characters escaped, cut at `limit`."""
    return on_one_line(name[:limit]) + ("…" if len(name) > limit else "")


@about_its_path
def read_header(path: Path) -> Header:
    """Read and check a file's header; the tensors themselves are not touched.

    Raises:
        BadInput: not a regular file, or a Git LFS pointer.
        CtxextError: corrupt: any way in which header and bytes do not describe each other.
    """
    name = printable(path.name)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise BadInput(f"{name} is not a regular file, so it is no safetensors shard")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(len(_LFS))
            if start == _LFS:
                raise BadInput(f"{name} is a Git LFS pointer, not weights", "run `git lfs pull`")
            if size < 8:
                raise _corrupt(name, f"it has {size} bytes")
            length = struct.unpack("<Q", start[:8])[0]
            if length < 2 or length > size - 8:
                raise _corrupt(name, f"its header claims {length} bytes in a file of {size}")
            if length > _MAX_HEADER:
                raise _corrupt(name, f"its header of {length} bytes is larger than 16 MiB")
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}") from error
    return _parse(text, size - 8 - length, name)


def _corrupt(name: str, why: str) -> CtxextError:
    return CtxextError(f"corrupt shard {name}: {why}", "fetch the file again")


def _parse(text: bytes, data_bytes: int, name: str) -> Header:
    infos: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    named = set()
    try:
        for key, entry in _entries(text.decode("utf-8"), name):
            if key in named:
                raise _corrupt(name, f"its header names {printable(key)!r} twice")
            named.add(key)
            if len(entry) > (_MAX_METADATA if key == "__metadata__" else _MAX_ENTRY):
                raise _corrupt(name, f"its header says too much about {printable(key)!r}")
            value = json.loads(entry)
            if key == "__metadata__":
                metadata = value
            else:
                infos[key] = _tensor_info(key, value, name)
    except ValueError as error:  # no UTF-8, no JSON, or a number that Python refuses to read
        raise _corrupt(name, "its header is not JSON") from error
    if not all(isinstance(text, str) for text in metadata.values()):
        raise _corrupt(name, "its metadata is not a map of strings")
    tensors = sorted(infos.items(), key=lambda item: (item[1].start, item[1].end))
    position = 0
    for key, info in tensors:
        if info.start != position:
            what = "overlap" if info.start < position else "leave a gap"
            raise _corrupt(name, f"the bytes of {printable(key)!r} {what}")
        position = info.end
    if position != data_bytes:
        raise _corrupt(name, f"its tensors need {position} bytes and it holds {data_bytes}")
    return Header(dict(tensors), metadata, 8 + len(text))


def _entries(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield (name, JSON object that describes it) for every entry of a header, in its order."""
    position, end = 1, len(text.rstrip(" "))
    if text[:1] == "{" and text[1:end].strip() == "}":
        return
    more = text[:1] == "{"
    while more:
        match = _ENTRY.match(text, position)
        if match is None:
            break
        yield json.loads(match[1]), match[2]
        position, more = match.end(), match[3] == ","
    if more or position != end:
        raise _corrupt(name, "its header is not a JSON object of tensors")


def _tensor_info(key: str, value: dict[str, Any], name: str) -> TensorInfo:
    what = f"tensor {printable(key)!r}"
    if set(value) != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(name, f"{what} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _corrupt(name, f"{what} has the unknown dtype {printable(str(dtype))!r}")
    numbers = [shape, offsets]
    if not all(isinstance(n, list) for n in numbers) or len(offsets) != 2 or len(shape) > 64:
        raise _corrupt(name, f"{what} has no usable shape or offsets")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in shape + offsets):
        raise _corrupt(name, f"{what} has a shape or offset that is not a whole number")
    info = TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])
    if info.elements * DTYPE_BYTES[dtype] != info.end - info.start:
        raise _corrupt(name, f"{what}: shape and dtype do not fill its bytes")
    return info


def read_bytes(source: IO[bytes], header: Header, info: TensorInfo) -> bytearray:
    """Read the bytes of one tensor of an open file.

    Raises:
        CtxextError: the file ends before.
    """
    raw = bytearray(info.end - info.start)
    source.seek(header.data_start + info.start)
    if source.readinto(raw) != len(raw):  # type: ignore[attr-defined]
        raise CtxextError(f"{printable(Path(source.name).name)} became shorter while it was read")
    return raw


@about_its_path
def set_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Write a file anew with other metadata; tensors, their order and bytes stay.

    The library writes metadata in random order; here the same content gives the same bytes.
    """
    header = read_header(path)
    beside = path.with_name(f".{path.name}.tmp")
    plan = {name: (info.dtype, info.shape) for name, info in header.tensors.items()}
    with path.open("rb") as file:

        def tensors() -> Iterable[tuple[str, bytes]]:
            for name, info in header.tensors.items():
                file.seek(header.data_start + info.start)
                yield name, file.read(info.end - info.start)

        write_safetensors(beside, plan, tensors(), metadata)
    beside.replace(path)


def write_safetensors(
    path: Path,
    plan: Mapping[str, tuple[str, tuple[int, ...]]],
    tensors: Iterable[tuple[str, bytes | bytearray | memoryview]],
    metadata: Mapping[str, str],
) -> int:
    """Write a file one tensor at a time, so that memory holds one; return the bytes written.

    Args:
        plan: name -> (dtype, shape), in the order in which `tensors` yields them.
        tensors: (name, bytes) pairs, exactly those of `plan`.
        metadata: the header's `__metadata__`.

    Raises:
        ValueError: `tensors` is not what `plan` announced (a bug of the caller).
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, (dtype, shape) in plan.items():
        end = position + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the data begins on an 8-byte boundary, as the library writes
    expected = iter(plan)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for name, data in tensors:
            if name != next(expected, None):
                raise ValueError(f"{name} comes out of order")
            view = memoryview(data).cast("B")
            if view.nbytes != header[name]["data_offsets"][1] - header[name]["data_offsets"][0]:
                raise ValueError(f"{name} has {view.nbytes} bytes, which its header does not say")
            file.write(view)
        if next(expected, None) is not None:
            raise ValueError("fewer tensors than planned")
        file.flush()
        os.fsync(file.fileno())
    return 8 + len(text) + position
