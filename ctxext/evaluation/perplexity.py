"""Perplexity of a model on documents: by length, and by position inside a window.

perplexity = exp(sum of negative log-likelihoods / tokens scored), natural logarithm.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ctxext.checkpoints.load import reset_dynamic_rope
from ctxext.data.tokens import TokenIds
from ctxext.errors import BadInput, CtxextError
from ctxext.evaluation.scoring import last_token_nll
from ctxext.evaluation.windows import Window, disjoint_windows, position_edges, sliding_windows
from ctxext.progress import Progress, silent

Protocol = Literal["sliding", "disjoint", "yarn"]
_TOKENS_AT_ONCE = 8192  # short windows are batched up to this


@dataclass(frozen=True)
class LengthScore:
    """Perplexity with windows of `length` tokens; `stderr` is of `nll`, over windows, nats."""

    length: int
    perplexity: float
    nll: float
    stderr: float | None
    tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class PositionScore:
    """Perplexity of the tokens at positions [start, end) of a window; `stderr` of `nll`, nats."""

    start: int
    end: int
    perplexity: float
    nll: float
    stderr: float | None
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def readable(documents: Sequence[TokenIds], length: int, *, source: str) -> list[TokenIds]:
    """The documents that fill at least one window, so that every length scores the same text.

    Raises:
        BadInput: none does.
    """
    if length < 2:
        raise BadInput(f"--lengths has {length}, and a window needs at least 2 tokens")
    long = [d for d in documents if len(d) >= length]
    if not long:
        longest = max((len(d) for d in documents), default=0)
        raise BadInput(
            f"--data {source} has no document of {length} tokens (the longest read has {longest})",
            "give longer text, more --tokens, or shorter --lengths",
        )
    return long


def by_length(
    model: Any,
    documents: Sequence[TokenIds],
    length: int,
    *,
    stride: int = 256,
    protocol: Protocol = "sliding",
    on_progress: Progress = silent,
    name: str = "model",
) -> LengthScore:
    """Perplexity at one window length.

    Args:
        model: a transformers causal language model, in eval mode.
        documents: token ids; each is one stream, windows never cross from one to the next.
        length, stride: tokens; 1 <= stride <= length.
        protocol: `sliding`; `disjoint` (stride = length); `yarn` (sliding windows, but the mean
            over windows of each window's mean, as in the YaRN paper's script).

    Raises:
        CtxextError: the model returned NaN or infinity.
    """
    began = time.monotonic()
    step = length if protocol == "disjoint" else stride
    plans = [(d, sliding_windows(len(d), length, step)) for d in documents]
    sums, counts = [], []
    total = sum(len(windows) for _, windows in plans)
    for done, (window, nll) in enumerate(_scored(model, plans), start=1):
        sums.append(float(nll.sum()))
        counts.append(window.scored)
        on_progress(f"{name} at {length}", done, total, "")
    mean, stderr = _mean(np.array(sums), np.array(counts), each_window_once=protocol == "yarn")
    _check_finite(mean, name, length)
    return LengthScore(
        length, math.exp(mean), mean, stderr, sum(counts), round(time.monotonic() - began, 3)
    )


def by_position(
    model: Any,
    documents: Sequence[TokenIds],
    length: int,
    *,
    on_progress: Progress = silent,
    name: str = "model",
) -> list[PositionScore]:
    """Perplexity by where in a window a token stands: whole disjoint windows, powers of two.

    Raises:
        CtxextError: the model returned NaN or infinity.
    """
    plans = [(d, disjoint_windows(len(d), length, whole=True)) for d in documents]
    total = sum(len(windows) for _, windows in plans)
    rows = []
    for done, (_, nll) in enumerate(_scored(model, plans), start=1):
        rows.append(nll)
        on_progress(f"{name} by position", done, total, "")
    table = np.stack(rows)  # (windows, length - 1); column i is the token at position i + 1
    scores = []
    edges = position_edges(length)
    for start, end in itertools.pairwise(edges):
        part = table[:, max(start - 1, 0) : end - 1]
        counts = np.full(len(part), part.shape[1])
        mean, stderr = _mean(part.sum(axis=1), counts)
        _check_finite(mean, name, length)
        scores.append(PositionScore(start, end, math.exp(mean), mean, stderr, int(counts.sum())))
    return scores


def _scored(
    model: Any, plans: Sequence[tuple[TokenIds, list[Window]]]
) -> Iterator[tuple[Window, npt.NDArray[np.float64]]]:
    """Every window with the NLL of its scored tokens, in order; equal windows share a batch."""
    reset_dynamic_rope(model)
    device = next(model.parameters()).device
    for document, windows in plans:
        at = 0
        while at < len(windows):
            first = windows[at]
            size = max(1, _TOKENS_AT_ONCE // first.length)
            batch = [
                w
                for w in windows[at : at + size]
                if (w.length, w.scored) == (first.length, first.scored)
            ]
            rows = np.stack([document[w.begin : w.end] for w in batch]).astype(np.int64)
            nll = last_token_nll(model, torch.from_numpy(rows).to(device), first.scored)
            yield from zip(batch, nll.double().numpy(), strict=True)
            at += len(batch)


def _mean(
    sums: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    *,
    each_window_once: bool = False,
) -> tuple[float, float | None]:
    """Mean NLL and its standard error, with the window as the unit that varies independently."""
    if each_window_once:
        sums, counts = sums / counts, np.ones_like(counts)
    mean = float(sums.sum() / counts.sum())
    windows = len(sums)
    if windows < 2:
        return mean, None  # one window says nothing about the spread
    residuals = sums - mean * counts
    variance = float((residuals**2).sum()) * windows / (windows - 1)
    return mean, math.sqrt(variance) / float(counts.sum())


def _check_finite(value: float, name: str, length: int) -> None:
    if not math.isfinite(value):
        raise CtxextError(
            f"{name} returned {value} at length {length}, so its numbers mean nothing"
        )
