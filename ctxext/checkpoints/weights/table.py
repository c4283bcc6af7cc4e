"""Write a longer table of positions: one tensor of the weights, in its dtype.

Old files also hold what their classes compute by themselves: causal masks and position ids of the
trained window. They would stand in the way of a longer one, so they are left out.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.weights.carry import WeightsMode, link_or_copy
from ctxext.checkpoints.weights.files import INDEX, Weights, read_tensor, read_weights
from ctxext.checkpoints.weights.numbers import FLOATS, as_bytes, as_tensor
from ctxext.checkpoints.weights.position_table import position_table
from ctxext.checkpoints.weights.safetensors_file import (
    Header,
    TensorInfo,
    printable,
    read_bytes,
    read_header,
    write_safetensors,
)
from ctxext.encodings.learned import TableSpec, resampled
from ctxext.errors import BadInput, CtxextError
from ctxext.methods import TableExtension
from ctxext.runs.json_file import dump_json
from ctxext.runs.rows.row import Row

if TYPE_CHECKING:
    import torch

# GPT-2's `h.0.attn.bias` and `masked_bias`, GPT-Neo's `attn.attention.bias`, BERT's position_ids.
_BUFFERS: Final = re.compile(r"(?:^|\.)(?:bias|masked_bias|position_ids)$")


@dataclass(frozen=True, kw_only=True)
class TableRow(Row):
    """What was, or would be, written of a learned table.

    Attributes:
        tensor: its name.
        rows_before, rows_after: in all.
        offset: of them before position 0, which stay.
        left_out: tensors that the class computes by itself, of the trained window.
    """

    tensor: str
    rows_before: int
    rows_after: int
    offset: int
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableChange:
    """What of the weights is written anew.

    Attributes:
        name: of the table's tensor.
        info: of the trained table.
        spec: the trained rows that count, and those before position 0.
        source: for each new position the trained one that its row comes from.
        dropped: tensors that are left out.
    """

    name: str
    info: TensorInfo
    spec: TableSpec
    source: Sequence[float]
    dropped: frozenset[str]

    @property
    def row(self) -> TableRow:
        """What is reported of it."""
        return TableRow(
            tensor=self.name,
            rows_before=self.info.shape[0],
            rows_after=self.shape[0],
            offset=self.spec.offset,
            left_out=tuple(sorted(self.dropped)),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """The new table's."""
        return self.spec.offset + len(self.source), self.info.shape[1]

    def of_shard(self, header: Header) -> bool:
        """Tell whether a shard is written anew."""
        return any(name == self.name or name in self.dropped for name in header.tensors)

    def new_bytes(self, weights: Weights) -> int:
        """Count the bytes of the shards that are written anew."""
        grown = (len(self.source) - self.spec.window) * (self.info.end - self.info.start)
        old = sum(
            info.end - info.start
            for header in weights.shards.values()
            if self.of_shard(header)
            for info in header.tensors.values()
        )
        return old + max(0, grown // self.info.shape[0])


def plan_table(weights: Weights, position: Position, extension: TableExtension) -> TableChange:
    """Find the table of a checkpoint, and what of the weights belongs to its window.

    Args:
        position: of the base.

    Raises:
        BadInput: there is none, or two; it is quantised, or has other rows than the config says.
    """
    spec, window = position.spec, position.window
    if not isinstance(spec, TableSpec):
        raise TypeError("a checkpoint without a table is extended otherwise")
    tensors, name = weights.tensors, position_table(weights, position.model_type)
    info = tensors[name][1]
    if info.dtype not in FLOATS:
        raise BadInput(
            f"{printable(name)} is of dtype {info.dtype}, of which no rows can be made",
            "extend the unquantised checkpoint",
        )
    rows = spec.offset + window.max_position_embeddings
    if len(info.shape) != 2 or info.shape[0] != rows:
        raise BadInput(
            f"{printable(name)} has the shape {list(info.shape)}, and the config says "
            f"{window.max_position_embeddings} positions: {rows} rows",
            "write the number of positions that the table has into the config",
        )
    if spec.window > window.max_position_embeddings:
        raise BadInput(
            f"--original-length {spec.window}: the table has rows for "
            f"{window.max_position_embeddings} positions only"
        )
    dropped = frozenset(
        each
        for each, (_, other) in tensors.items()
        if _is_buffer(each, other.shape, window.max_position_embeddings)
    )
    return TableChange(name, info, spec, extension.source, dropped)


def _is_buffer(name: str, shape: tuple[int, ...], window: int) -> bool:
    """Tell whether a tensor is a mask or the ids of positions, and no weights."""
    if _BUFFERS.search(name) is None:
        return False
    if name.endswith("position_ids"):
        return True
    return shape == () or shape[-2:] == (window, window)  # a bias of weights has one dimension


def write_table(weights: Weights, folder: Path, change: TableChange, mode: WeightsMode) -> None:
    """Write the shards that change, one tensor in memory at a time; link or copy the others."""
    left: dict[str, str] = {}
    for file, header in weights.shards.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        kept = {name: info for name, info in header.tensors.items() if name not in change.dropped}
        left |= dict.fromkeys(kept, file)
        if not change.of_shard(header):
            link_or_copy(weights.folder / file, folder / file, mode)
        elif kept:
            plan = {
                name: (info.dtype, change.shape if name == change.name else info.shape)
                for name, info in kept.items()
            }
            tensors = _tensors(weights, file, kept, change)
            write_safetensors(folder / file, plan, tensors, header.metadata or {"format": "pt"})
    if weights.index is None:
        return
    if all(not change.of_shard(header) for header in weights.shards.values()):
        shutil.copyfile(weights.folder / INDEX, folder / INDEX)
        return
    _write_index(weights, folder, left)


def _write_index(weights: Weights, folder: Path, left: Mapping[str, str]) -> None:
    """Write the index of the tensors that are left, with their bytes."""
    total = sum(
        info.end - info.start
        for file in set(left.values())
        for info in read_header(folder / file).tensors.values()
    )
    index: dict[str, Any] = dict(weights.index or {})
    metadata = index.get("metadata")
    index["metadata"] = {
        **(metadata if isinstance(metadata, dict) else {}),
        "total_size": total,
    }
    index["weight_map"] = {name: file for name, file in index["weight_map"].items() if name in left}
    (folder / INDEX).write_text(dump_json(index), encoding="utf-8")


def _tensors(
    weights: Weights, file: str, kept: Mapping[str, TensorInfo], change: TableChange
) -> Iterator[tuple[str, bytearray | memoryview]]:
    header = weights.shards[file]
    with (weights.folder / file).open("rb") as source:
        for name, info in kept.items():
            raw = read_bytes(source, header, info)
            yield name, as_bytes(_longer(raw, change)) if name == change.name else raw


def _longer(raw: bytearray, change: TableChange) -> "torch.Tensor":
    """Make the longer table of the bytes of the trained one."""
    spec = change.spec
    return resampled(as_tensor(raw, change.info)[: spec.offset + spec.window], spec, change.source)


def check_table(weights: Weights, folder: Path, change: TableChange) -> None:
    """Read a written table back, and compare each of its rows with the method's own.

    Raises:
        CtxextError: they differ, or the new files do not agree with each other.
    """
    import torch

    written = read_weights(folder)
    _, info = written.tensors[change.name]
    table = as_tensor(read_tensor(written, change.name), info)
    wanted = _longer(read_tensor(weights, change.name), change)
    if not wanted.isfinite().all():
        raise CtxextError(f"{printable(change.name)} holds NaN or infinity")
    if info.shape != change.shape or not torch.equal(table, wanted):
        raise CtxextError(f"{printable(change.name)} does not read back as it was to be written")
