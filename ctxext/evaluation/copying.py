"""Copying from far: does a model use text that stands a given distance back?

A string of 16 distinct random bytes (as tokens) is planted twice in a row of real text, the second
time at the end, `distance` tokens after the first. The model is shown the truth throughout
(teacher-forced); counted is how many of the last 12 tokens of the second copy it ranks first. Its
first 4 tokens are the cue and are not counted. Chance is one in the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ctxext.data.tokens import TokenIds
from ctxext.errors import BadInput
from ctxext.evaluation.scoring import last_token_hits
from ctxext.progress import Progress, silent

_PLANTED = 16
_SCORED = 12


@dataclass(frozen=True)
class CopyScore:
    """Share of tokens copied rightly over `samples` rows of `length` tokens, at one distance."""

    length: int
    distance: int
    accuracy: float
    samples: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def planted_rows(
    documents: Sequence[TokenIds],
    alphabet: Sequence[int],
    *,
    length: int,
    distance: int,
    samples: int,
    seed: int,
) -> np.ndarray:
    """Rows (samples, length) int64 of text with the string planted at the end and before it.

    Args:
        documents: texts to cut the rows from.
        alphabet: token ids the string is drawn from, without repeats.
        length: tokens in a row.
        distance: tokens from the start of one copy to the start of the other, >= 16.

    Raises:
        BadInput: the two copies do not fit, or no document is long enough.
    """
    last = length - _PLANTED
    if not _PLANTED <= distance <= last:
        raise BadInput(
            f"a distance of {distance} does not fit in {length} tokens "
            f"(from {_PLANTED} to {last} does)"
        )
    long = [d for d in documents if len(d) >= length]
    if not long:
        raise BadInput(f"no document has {length} tokens to plant a string in")
    rng = np.random.default_rng([seed, length, distance])
    rows = np.empty((samples, length), dtype=np.int64)
    for row in rows:
        document = long[int(rng.integers(len(long)))]
        start = int(rng.integers(len(document) - length + 1))
        row[:] = document[start : start + length]
        string = rng.permutation(np.asarray(alphabet))[:_PLANTED]
        row[last:] = string
        row[last - distance : last - distance + _PLANTED] = string
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
    on_progress: Progress = silent,
    name: str = "model",
) -> list[CopyScore]:
    """Copying accuracy at each distance, in rows of `length` tokens.

    Raises:
        BadInput: as `planted_rows`.
    """
    device = next(model.parameters()).device
    scores = []
    for done, distance in enumerate(distances, start=1):
        rows = planted_rows(
            documents, alphabet, length=length, distance=distance, samples=samples, seed=seed
        )
        hits = [
            last_token_hits(model, torch.from_numpy(row[None]).to(device), _SCORED) for row in rows
        ]
        scores.append(CopyScore(length, distance, float(torch.cat(hits).float().mean()), samples))
        on_progress(f"{name} copying", done, len(distances), f"{distance} back")
    return scores
