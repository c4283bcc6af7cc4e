"""Copying from far: does a model use text that stands a given distance back?

A string of 16 distinct random tokens is planted twice in a row of real text, the second time at the
end, `distance` tokens after the first; several distances share a row, each with its own string. The
model is shown the truth throughout (teacher-forced); counted is how many of the last 12 tokens of a
second copy it ranks first. The first 4 are the cue and are not counted. Chance is one in the
vocabulary.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ctxext.data.tokens import TokenIds
from ctxext.errors import BadInput
from ctxext.evaluation.reading.scoring import Scorer
from ctxext.runs.rows.demo import CopyRow

_PLANTED = 16
_SCORED = 12


def planted_rows(
    documents: Sequence[TokenIds],
    alphabet: Sequence[int],
    *,
    length: int,
    distances: Sequence[int],
    samples: int,
    seed: int,
) -> np.ndarray:
    """Make rows (samples, length), int64, of text with each distance's string planted twice.

    Second copies stand side by side at the end, in the order of `distances`.

    Args:
        alphabet: token ids the strings are drawn from, without repeats.
        length: tokens in a row.
        distances: tokens from the start of one copy to the start of the other, ascending.

    Raises:
        BadInput: the copies do not fit, or overlap, or no document is long enough.
    """
    seconds = [length - _PLANTED * (len(distances) - k) for k in range(len(distances))]
    firsts = [second - distance for second, distance in zip(seconds, distances, strict=True)]
    taken = [*sorted(firsts), seconds[0]]
    if taken[0] < 0 or any(b - a < _PLANTED for a, b in itertools.pairwise(taken)):
        raise BadInput(
            f"strings of {_PLANTED} tokens at distances {', '.join(map(str, distances))} do not "
            f"fit in rows of {length} tokens without touching"
        )
    long = [d for d in documents if len(d) >= length]
    if not long:
        raise BadInput(f"no document has {length} tokens to plant a string in")
    rng = np.random.default_rng([seed, length, *distances])
    rows = np.empty((samples, length), dtype=np.int64)
    for row in rows:
        document = long[int(rng.integers(len(long)))]
        start = int(rng.integers(len(document) - length + 1))
        row[:] = document[start : start + length]
        for first, second in zip(firsts, seconds, strict=True):
            string = rng.permutation(np.asarray(alphabet))[:_PLANTED]
            row[first : first + _PLANTED] = row[second : second + _PLANTED] = string
    return rows


def copying(
    model: Any,
    documents: Sequence[TokenIds],
    alphabet: Sequence[int],
    *,
    length: int,
    distances: Sequence[int],
    samples: int = 16,
    seed: int = 0,
    name: str = "model",
) -> list[CopyRow]:
    """Measure copying at each distance, in rows of `length` tokens; `name` is the model's.

    Raises:
        BadInput: as `planted_rows`.
    """
    scorer = Scorer(model)
    distances = sorted(set(distances))
    rows = planted_rows(
        documents, alphabet, length=length, distances=distances, samples=samples, seed=seed
    )
    hits = torch.zeros(len(distances))
    for row in rows:
        ids = torch.from_numpy(row[None]).to(scorer.device)
        ranked = scorer.hits(ids, _PLANTED * len(distances))
        hits += ranked.reshape(len(distances), _PLANTED)[:, -_SCORED:].sum(dim=1)
    return [
        CopyRow(
            model=name,
            length=length,
            distance=distance,
            samples=samples,
            accuracy=float(count) / (_SCORED * samples),
        )
        for distance, count in zip(distances, hits, strict=True)
    ]
