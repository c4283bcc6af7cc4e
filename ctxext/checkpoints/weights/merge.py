"""Merge a LoRA adapter into a checkpoint's shards: one tensor in memory at a time."""

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ctxext.checkpoints.weights.adapter import Adapter
from ctxext.checkpoints.weights.adapter_fit import check_fits
from ctxext.checkpoints.weights.carry import link_or_copy
from ctxext.checkpoints.weights.files import INDEX, Weights, read_tensor
from ctxext.checkpoints.weights.low_rank import add_low_rank
from ctxext.checkpoints.weights.numbers import CODES, FLOATS, as_bytes, as_tensor
from ctxext.checkpoints.weights.rounding import Rounding, RoundingMeter
from ctxext.checkpoints.weights.safetensors_file import (
    DTYPE_BYTES,
    Header,
    TensorInfo,
    printable,
    read_bytes,
    write_safetensors,
)
from ctxext.checkpoints.weights.tying import Plan, plan_head
from ctxext.errors import BadInput, CtxextError
from ctxext.progress import Progress, silent
from ctxext.runs.json_file import dump_json

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Merged:
    """What a merge wrote.

    Attributes:
        tensors, merged_tensors: in the output, and those of them that the adapter changed.
        bytes: of weights written (linked shards count too).
        tied: whether the head is the embedding in the output; None = as in the base's config.
        rounding: what storing the merged tensors in their dtype cost.
        applied: the adapter as it was applied (`tying.Plan`).
    """

    tensors: int
    merged_tensors: int
    bytes: int
    tied: bool | None
    rounding: Rounding
    warnings: tuple[str, ...]
    applied: Adapter


def merge_into(
    base: Weights,
    adapter: Adapter,
    folder: Path,
    *,
    tie_word_embeddings: bool,
    dtype: str = "auto",
    on_progress: Progress = silent,
) -> Merged:
    """Write the merged shards (and index) into an existing folder.

    W' = W + (B @ A) * scale (DoRA: each row then scaled to its magnitude), in float32, rounded once
    to the dtype of W: bit for bit what peft's `merge_and_unload` gives. Sharding, names, order and
    dtypes stay; shards that the adapter does not touch are linked.

    Args:
        base: the checkpoint that the adapter was trained on.
        tie_word_embeddings: what the base's config says.
        dtype: `auto`, or one dtype for all floating tensors.

    Raises:
        BadInput: the adapter does not fit the base.
        CtxextError: a non-finite number in the adapter, or a merged one that `dtype` cannot hold.
    """
    from safetensors import safe_open

    missing = check_fits(adapter, base, tied=tie_word_embeddings)
    meter = RoundingMeter()
    with safe_open(adapter.file, framework="pt") as updates:
        _check_finite(adapter, updates)
        plan = plan_head(base, adapter, updates, tied=tie_word_embeddings)
        written, merged = 0, 0
        where: dict[str, str] = {}
        for done, (file, header) in enumerate(base.shards.items(), start=1):
            last = done == len(base.shards)
            extra = last and plan.adds_head
            touched = [name for name in header.tensors if plan.adapter.changes(name)]
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            if not touched and not extra and _keeps(header, dtype):
                link_or_copy(base.folder / file, folder / file, "auto")
                written += (folder / file).stat().st_size
                names = list(header.tensors)
            else:
                shapes = _shapes(base, header, dtype, extra)
                with (base.folder / file).open("rb") as source:
                    tensors = _tensors(base, file, source, shapes, plan, updates, meter)
                    written += write_safetensors(
                        folder / file, shapes, tensors, header.metadata or {"format": "pt"}
                    )
                names = list(shapes)
            merged += len(touched) + bool(extra)
            where |= dict.fromkeys(names, file)
            on_progress("merge", done, len(base.shards), file)
    _write_index(base, folder, where, dtype, plan)
    warnings = (*missing, *plan.warnings)
    return Merged(len(where), merged, written, plan.tied, meter.worst, warnings, plan.adapter)


def check_mergeable(base: Weights) -> None:
    """Check that what is trained can be added to the matrices of a checkpoint.

    Raises:
        BadInput: one is stored as float64, which a sum in float32 would not keep.
    """
    for name, (_, info) in base.tensors.items():
        if info.dtype == "F64" and len(info.shape) > 1:
            raise BadInput(
                f"{printable(name)!r} is stored as float64, into which nothing is merged",
                "store the checkpoint as float32 first: transformers, from_pretrained(..., "
                "dtype='float32') and save_pretrained",
            )


def _check_finite(adapter: Adapter, updates: Any) -> None:
    """Refuse an adapter with a number that no merge could store.

    Raises:
        CtxextError: NaN or infinity; the tensor is named.
    """
    for key in adapter.header.tensors:
        if not updates.get_tensor(key).isfinite().all():
            raise CtxextError(f"the adapter's {printable(key)!r} holds NaN or infinity")


def _keeps(header: Header, dtype: str) -> bool:
    """Tell whether no tensor of a shard has to change its dtype."""
    return all(_dtype(info, dtype) == info.dtype for info in header.tensors.values())


def _dtype(info: TensorInfo, dtype: str) -> str:
    return CODES[dtype] if info.dtype in FLOATS and dtype != "auto" else info.dtype


def _shapes(
    base: Weights, header: Header, dtype: str, extra: bool
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """List the output shard's tensors in order: name -> (dtype, shape)."""
    out = {name: (_dtype(info, dtype), info.shape) for name, info in header.tensors.items()}
    if extra:
        _, embedding = base.tensors[base.embedding]
        out[base.head] = (_dtype(embedding, dtype), embedding.shape)
    return out


def _tensors(
    base: Weights,
    file: str,
    source: IO[bytes],
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
    plan: Plan,
    updates: Any,
    meter: RoundingMeter,
) -> Iterator[tuple[str, bytearray | memoryview]]:
    """Yield the output shard's tensors as bytes, one at a time."""
    header = base.shards[file]
    for name, (dtype, _) in shapes.items():
        info = header.tensors.get(name)
        if info is None:  # the new head
            raw = read_tensor(base, base.embedding)
            before = as_tensor(raw, base.tensors[base.embedding][1])
        else:
            raw = read_bytes(source, header, info)
            if dtype == info.dtype and not plan.adapter.changes(name):
                yield name, raw
                continue
            before = as_tensor(raw, info)
        exact = _merged(name, before, plan, updates)
        stored = _stored(name, before if exact is None else exact, dtype)
        if exact is not None:
            meter.add(name, exact, stored, before)
        del raw, before, exact  # while the bytes are written, nothing else of the tensor is held
        yield name, as_bytes(stored)


def _merged(name: str, weight: "torch.Tensor", plan: Plan, updates: Any) -> "torch.Tensor | None":
    """Compute what a tensor of the base becomes, before it is rounded; None = itself."""
    adapter = plan.adapter
    if scales := adapter.scaled.get(name):
        return scales.of(weight)
    if bias := adapter.biases.get(name):
        new: torch.Tensor = weight.float() + updates.get_tensor(bias.key).float() * bias.scale
        return new
    if name in adapter.replaced:
        weight = updates.get_tensor(adapter.replaced[name])
    update = adapter.low_rank.get(name)
    if update is None:
        return weight if name in adapter.replaced else None
    return add_low_rank(
        weight,
        updates.get_tensor(update.a),
        updates.get_tensor(update.b),
        update.scale,
        magnitude=updates.get_tensor(update.magnitude) if update.magnitude else None,
        transposed=update.transposed,
    )


def _stored(name: str, tensor: "torch.Tensor", dtype: str) -> "torch.Tensor":
    """Cast a tensor to the dtype of the file; refuse it where that makes an infinity."""
    import torch

    word = FLOATS[dtype]
    stored = tensor.to(getattr(torch, word)).contiguous()
    if stored.numel() and not all(math.isfinite(float(end)) for end in stored.aminmax()):
        raise CtxextError(
            f"the merged {printable(name)!r} holds NaN, infinity or a number beyond {word}",
            "a wider --dtype holds it, unless base and adapter do not belong together",
        )
    return stored


def _write_index(
    base: Weights, folder: Path, where: Mapping[str, str], dtype: str, plan: Plan
) -> None:
    if base.index is None:
        return
    if dtype == "auto" and not plan.adds_head:
        shutil.copyfile(base.folder / INDEX, folder / INDEX)
        return
    total = sum(
        info.elements * DTYPE_BYTES[_dtype(info, dtype)] for _, info in base.tensors.values()
    )
    if base.head in where and base.head not in base.tensors:
        _, info = base.tensors[base.embedding]
        total += info.elements * DTYPE_BYTES[_dtype(info, dtype)]
    metadata = {**base.index.get("metadata", {}), "total_size": total}
    index = {**base.index, "metadata": metadata, "weight_map": dict(where)}
    (folder / INDEX).write_text(dump_json(index), encoding="utf-8")
