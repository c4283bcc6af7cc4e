"""Read back what a merge wrote and compute it again in another way (`merge --verify`).

The merge reads bytes and adds in float32, a whole tensor at a time. Here the safetensors library
reads, and the sum is formed in float64, some rows at a time; the two share no arithmetic.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxext.checkpoints.weights.adapter import Adapter
from ctxext.checkpoints.weights.files import Weights, read_weights
from ctxext.checkpoints.weights.numbers import CODES, FLOATS
from ctxext.checkpoints.weights.safetensors_file import TensorInfo, printable
from ctxext.errors import CtxextError

if TYPE_CHECKING:
    import torch

_UNIT = {"BF16": 2.0**-8, "F16": 2.0**-11, "F32": 2.0**-24}  # one rounding to nearest, relative
# The merge's own float32 sums: of `rank` products, of a row's squares for DoRA.
_SUMS = 64 * 2.0**-24
_SUBNORMAL = {"BF16": 1e-38, "F16": 6e-8, "F32": 1e-38}
_BLOCK = 1 << 17  # numbers compared at a time: 1 MiB in float64, and there are a dozen such


def verify_merge(
    base: Weights,
    adapter: Adapter,
    folder: Path,
    *,
    dtype: str = "auto",
    tied: bool = False,
    sample: int = 32,
    seed: int = 0,
) -> int:
    """Compare what a merge wrote with base + adapter; return how many tensors' numbers were.

    Every tensor's name, file, shape and dtype is compared, and the index with the shards; of the
    numbers, those of `sample` tensors: all kinds of change, and some that must not have changed.

    Args:
        adapter: as it was applied (`merge.Merged.applied`).
        folder: what was written.
        dtype: as it was asked for.
        tied: whether the head is the embedding in the output.
        sample, seed: how many tensors' numbers are compared, and which.

    Raises:
        CtxextError: the output is not base + adapter; the first tensor that differs is named.
    """
    from safetensors import safe_open

    written = read_weights(folder)
    _check_listing(base, written, dtype, tied)
    chosen = _choose(base, written, adapter, sample, seed)
    with safe_open(adapter.file, framework="pt") as updates:
        for name in chosen:
            source = name if name in base.tensors else base.embedding  # a head that was untied
            old_file, old = base.tensors[source]
            new_file, new = written.tensors[name]
            with (
                safe_open(base.folder / old_file, framework="pt") as before,
                safe_open(folder / new_file, framework="pt") as after,
            ):
                pair = _Pair(name, old, new.dtype, (before, source), (after, name))
                _check_tensor(pair, adapter, updates)
    return len(chosen)


def _check_listing(base: Weights, written: Weights, dtype: str, tied: bool) -> None:
    """Compare shards, names (but for a head that was untied), shapes and dtypes with the base's."""
    if list(base.shards) != list(written.shards):
        raise CtxextError("--verify: the output's shards are not those of the base")
    old, new = base.tensors, written.tensors
    added, lost = set(new) - set(old), set(old) - set(new)
    if lost or added - ({base.head} if not tied else set()):
        name = printable(sorted(lost or added)[0])
        raise CtxextError(f"--verify: the output {'lacks' if lost else 'adds'} {name!r}")
    for name, (_, info) in new.items():
        _, source = old.get(name) or old[base.embedding]
        want = CODES[dtype] if source.dtype in FLOATS and dtype != "auto" else source.dtype
        if info.shape != source.shape or info.dtype != want:
            raise CtxextError(
                f"--verify: {printable(name)!r} was written as {info.dtype} {list(info.shape)}, "
                f"and has to be {want} {list(source.shape)}"
            )


def _choose(base: Weights, written: Weights, adapter: Adapter, sample: int, seed: int) -> list[str]:
    """Draw some of each change: DoRA or low-rank, biases, replaced, untouched, an untied head."""
    changes: dict[str, list[str]] = {}
    for name in written.tensors:
        change = "untouched"
        if name in adapter.replaced or name not in base.tensors:
            change = "replaced"
        elif name in adapter.biases:
            change = "bias"
        elif name in adapter.low_rank:
            change = "low-rank"
        changes.setdefault(change, []).append(name)
    rng = random.Random(seed)  # noqa: S311 - a sample, no secret
    for names in changes.values():
        rng.shuffle(names)
    chosen: list[str] = []
    while len(chosen) < sample and any(changes.values()):
        chosen += [names.pop() for names in changes.values() if names]
    return chosen[:sample]


@dataclass(frozen=True)
class _Pair:
    """A tensor before and after, each as (open file, its name there)."""

    name: str
    info: TensorInfo
    dtype: str
    before: tuple[Any, str]
    after: tuple[Any, str]


def _check_tensor(pair: _Pair, adapter: Adapter, updates: Any) -> None:
    import torch

    worst = 0.0
    for got, want, slack in _blocks(pair, adapter, updates):
        if pair.dtype not in _UNIT:
            worst = max(worst, 0.0 if torch.equal(got, want) else float("inf"))
            continue
        allowed = _UNIT[pair.dtype] * want.abs() + slack + _SUBNORMAL[pair.dtype]
        over = ((got.double() - want).abs() / allowed).nan_to_num(float("inf"))
        worst = max(worst, float(over.max()) if over.numel() else 0.0)
    if worst > 1.0:
        raise CtxextError(
            f"--verify: {printable(pair.name)!r} as written is not base + adapter: it differs by "
            f"{worst:.3g} times what rounding allows",
            "nothing was kept; merge again, and report it if it stays",
        )


def _blocks(
    pair: _Pair, adapter: Adapter, updates: Any
) -> Iterator[tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]]:
    """Yield (as written, as it has to be, what float32 sums may differ), some rows at a time.

    The second is float64. Rows are those of (out, in): a transposed matrix is read by columns.
    """
    import torch

    name, old = pair.name, pair.info
    update = adapter.low_rank.get(name)
    key = adapter.replaced.get(name)
    if len(old.shape) < 2 or old.dtype not in _UNIT:
        got, base = (file.get_tensor(its_name) for file, its_name in (pair.after, pair.before))
        yield got, *_whole(name, base, adapter, updates)
        return
    before, after = (file.get_slice(its_name) for file, its_name in (pair.before, pair.after))
    turned = update is not None and update.transposed
    outputs = old.shape[1] if turned else old.shape[0]
    step = max(1, _BLOCK // max(1, old.elements // max(1, outputs)))
    new = None if key is None else updates.get_slice(key)
    for at in range(0, outputs, step):
        here = slice(at, min(at + step, outputs))
        rows = (slice(None), here) if turned else (here,)
        got, base = after[rows], before[rows].double()
        if new is not None:
            base = new[rows].double()
        if turned:
            got, base = got.T, base.T
        if update is None:
            yield got, base, torch.zeros_like(base)
            continue
        a = updates.get_tensor(update.a).double()
        b = updates.get_slice(update.b)[here].double()
        want = base + update.scale * (b @ a)
        slack = _SUMS * (base.abs() + abs(update.scale) * (b.abs() @ a.abs()))
        if update.magnitude is not None:
            m = updates.get_tensor(update.magnitude)[here].double()
            factor = (m / want.square().sum(dim=1).sqrt()).unsqueeze(1)
            want, slack = want * factor, (slack + _SUMS * want.abs()) * factor.abs()
        yield got, want, slack


def _whole(
    name: str, base: "torch.Tensor", adapter: Adapter, updates: Any
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Compute what a vector, or a tensor that is no float, has to be: small, or not changed."""
    import torch

    if not base.is_floating_point():
        return base, torch.zeros(())
    want = base.double()
    if name in adapter.replaced:
        want = updates.get_tensor(adapter.replaced[name]).double()
    elif bias := adapter.biases.get(name):
        want = want + updates.get_tensor(bias.key).double() * bias.scale
    return want, _SUMS * (want.abs() + base.double().abs())
