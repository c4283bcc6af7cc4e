"""Perplexity of a model on documents: by length, and by position inside a window.

perplexity = exp(sum of negative log-likelihoods / tokens scored), natural logarithm.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxext.data.tokens import Tokens
from ctxext.errors import CtxextError
from ctxext.evaluation.perplexity.blocks import Grid
from ctxext.evaluation.reading.reading import Floats, Reading
from ctxext.evaluation.reading.windows import (
    Plan,
    Window,
    aligned_windows,
    disjoint_windows,
    position_edges,
    sliding_windows,
    step_within,
)
from ctxext.evaluation.statistics.bootstrap import ratio_stderr
from ctxext.runs.rows.perplexity import LARGEST_NLL, KeyRow, LengthRow, PositionRow, Protocol

MEANINGLESS = 1e7  # nats a token: float32 logits of that size tell no two tokens apart
Marks = Sequence[npt.NDArray[np.bool_]]
"""For each document, which of its tokens are meant: (tokens,) bool."""


@dataclass(frozen=True)
class Measured:
    """A length's score, with the sums of NLL (nats) and the tokens of each window behind it."""

    score: LengthRow
    sums: Floats
    counts: Floats
    keys: KeyRow | None = None

    def gain_over(self, shorter: "Measured") -> tuple[float, float | None]:
        """Compute the gain over a shorter length on the same tokens, nats, and its error.

        Aligned windows only. The difference is taken window by window: what makes both easy or
        hard alike is no noise of it.
        """
        differences = shorter.sums - self.sums
        return float(differences.sum() / self.counts.sum()), ratio_stderr(differences, self.counts)


@dataclass(frozen=True)
class Protocols:
    """How windows are cut.

    Attributes:
        protocol: `sliding`; `disjoint` (stride = length); `yarn` (sliding windows, but the mean
            over windows of each window's mean, as in the YaRN paper's script).
        stride: tokens between windows; `step` says what becomes of one longer than a window.
        aligned: all lengths that are compared; every length then scores the same tokens, the last
            `stride` of each window of the longest. Empty: each length scores all the text.
    """

    protocol: Protocol = "sliding"
    stride: int = 256
    aligned: tuple[int, ...] = ()

    def step(self, length: int) -> int:
        """Return the tokens between windows of `length`."""
        if self.aligned:
            return self.stride
        return length if self.protocol == "disjoint" else step_within(self.stride, length)

    def plan(self, documents: Sequence[Tokens], length: int) -> Plan:
        """Plan the windows of all documents, each with its document's index."""
        return Plan(
            (index, window)
            for index, document in enumerate(documents)
            for window in self._windows(len(document), length)
        )

    def _windows(self, tokens: int, length: int) -> Iterator[Window]:
        if self.aligned:
            return aligned_windows(tokens, length, self.aligned, self.stride)
        return sliding_windows(tokens, length, self.step(length))


def by_length(
    reading: Reading,
    documents: Sequence[Tokens],
    length: int,
    protocols: Protocols | None = None,
    *,
    sizes: Sequence[Tokens] | None = None,
    keys: Marks | None = None,
    keys_name: str = "",
    grid: Grid | None = None,
) -> Measured:
    """Measure perplexity at one window length, of all scored tokens and of key tokens among them.

    Args:
        documents: token ids; each is one stream, windows never cross from one to the next.
        length: tokens.
        protocols: how windows are cut; None = `Protocols()`.
        sizes: for each document, the bytes of text of each token.
        keys_name: what they depend on, for the journal.
        grid: blocks in which the score can be compared with others.

    Raises:
        CtxextError: the model returned NaN or infinity.
    """
    began = time.monotonic()
    protocols = protocols or Protocols()
    plan = protocols.plan(documents, length)

    def reduce(document: int, window: Window, nll: Floats) -> list[float]:
        if keys is None:
            return [float(nll.sum())]
        of_keys = keys[document][window.end - window.scored : window.end]
        return [float(nll.sum()), float(nll[of_keys].sum())]

    step = protocols.step(length)
    key = f"length {length} step {step} {protocols} {keys_name if keys is not None else ''}"
    width = 1 if keys is None else 2
    sums = np.array(
        reading.windows(
            documents, plan, reduce, what=f"at {length}", key=key, width=lambda _: width
        )
    )
    counts = plan.scored
    tokens = int(counts.sum())
    averaged, weights = sums[:, 0], counts
    if protocols.protocol == "yarn":  # each window counts once
        averaged, weights = averaged / counts, np.ones_like(counts)
    mean, stderr = _mean(averaged, weights)
    _check_finite(mean, reading.name, length)
    score = LengthRow(
        model=reading.name, length=length, stderr=stderr, tokens=tokens, stride=step,
        seconds=round(time.monotonic() - began, 3),
        bits_per_byte=_bits_per_byte(mean * tokens, plan, sizes),
        blocks=grid.blocks(plan, averaged, weights) if grid else None, **_perplexity(mean),
    )  # fmt: skip
    if keys is None:
        return Measured(score, sums[:, 0], counts)
    chosen = np.array([float(keys[d][w.end - w.scored : w.end].sum()) for d, w in plan])
    key_row = _key_row(reading.name, length, sums[:, 1], chosen, tokens)
    return Measured(score, sums[:, 0], counts, key_row)


def by_position(
    reading: Reading, documents: Sequence[Tokens], length: int, *, grid: Grid | None = None
) -> list[PositionRow]:
    """Measure perplexity by position in whole disjoint windows, in ranges up to powers of two.

    Raises:
        CtxextError: the model returned NaN or infinity.
    """
    plan = position_plan(documents, length)
    # Column i of a window is the token at position i + 1: the first has nothing before it.
    buckets = [(max(a - 1, 0), b - 1) for a, b in itertools.pairwise(position_edges(length))]

    def reduce(document: int, window: Window, nll: Floats) -> list[float]:
        return [float(nll[begin:end].sum()) for begin, end in buckets]

    key = f"positions {length}"
    table = np.array(
        reading.windows(
            documents, plan, reduce, what="by position", key=key, width=lambda _: len(buckets)
        )
    )
    scores = []
    edges = itertools.pairwise(position_edges(length))
    for (start, end), (begin, stop), sums in zip(edges, buckets, table.T, strict=True):
        counts = np.full(len(sums), float(stop - begin))
        mean, stderr = _mean(sums, counts)
        _check_finite(mean, reading.name, length)
        scores.append(
            PositionRow(
                model=reading.name, start=start, end=end, stderr=stderr, tokens=int(counts.sum()),
                blocks=grid.blocks(plan, sums, counts) if grid else None, **_perplexity(mean),
            )
        )  # fmt: skip
    return scores


def position_plan(documents: Sequence[Tokens], length: int) -> Plan:
    """Plan the windows of `by_position`."""
    return Plan(
        (index, window)
        for index, document in enumerate(documents)
        for window in disjoint_windows(len(document), length, whole=True)
    )


def _mean(sums: Floats, counts: Floats) -> tuple[float, float | None]:
    """Compute the mean NLL and its standard error, windows being what varies."""
    return float(sums.sum() / counts.sum()), ratio_stderr(sums, counts)


def _bits_per_byte(nats: float, plan: Plan, sizes: Sequence[Tokens] | None) -> float | None:
    """Divide the nats of all scored tokens by the bytes of their text; None where it has none."""
    if sizes is None:
        return None
    size = sum(int(sizes[d][w.end - w.scored : w.end].sum()) for d, w in plan)
    return nats / math.log(2) / size if size else None


def _key_row(name: str, length: int, sums: Floats, counts: Floats, tokens: int) -> KeyRow:
    chosen = int(counts.sum())
    nll = float(sums.sum() / chosen) if chosen else None
    return KeyRow(
        model=name, length=length, tokens=chosen, share=chosen / tokens if chosen else 0.0,
        stderr=ratio_stderr(sums, counts) if chosen else None, **_perplexity(nll),
    )  # fmt: skip


def _perplexity(nll: float | None) -> dict[str, Any]:
    """Give the fields `nll`, `perplexity` = exp(nll), and a note where it has no float: JSON knows
    no infinity."""
    if nll is None or nll < LARGEST_NLL:
        return {"nll": nll, "perplexity": None if nll is None else math.exp(nll)}
    note = f"exp({nll:.0f}), the perplexity, is beyond what a number can hold"
    return {"nll": nll, "perplexity": None, "note": note}


def _check_finite(value: float, name: str, length: int) -> None:
    if not abs(value) < MEANINGLESS:
        raise CtxextError(
            f"{name} returned {value:.6g} at length {length}, so its numbers mean nothing"
        )
