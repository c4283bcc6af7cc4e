"""Make training rows for a small byte-level decoder: program text, and strings that repeat.

A model of under a million parameters trained on plain code for minutes never learns to copy, and
without copying nothing can be shown about whether far text is *used*. What makes copying appear is
short rows in which a random string repeats at a random period, first alone, then planted in code.

Every function takes its randomness as a `numpy.random.Generator` and returns uint8 (rows, length).
"""

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint8]
_PRINTABLE = np.arange(33, 127, dtype=np.uint8)


def repeating_rows(rng: np.random.Generator, rows: int, length: int, longest: int) -> Rows:
    """Draw rows, each one tiled string of distinct bytes, its period uniform in 3..`longest`."""
    out = np.empty((rows, length), dtype=np.uint8)
    for row in out:
        period = int(rng.integers(3, longest + 1))
        tile = rng.permutation(256)[:period].astype(np.uint8)
        row[:] = np.tile(tile, length // period + 1)[:length]
    return out


def text_rows(rng: np.random.Generator, text: Rows, rows: int, length: int) -> Rows:
    """Cut rows from `text` (uint8, one long stream) at uniformly random places."""
    starts = rng.integers(0, len(text) - length, size=rows)
    return np.stack([text[start : start + length] for start in starts])


def plant_repeats(rng: np.random.Generator, rows: Rows, share: float) -> Rows:
    """Overwrite, in about `share` of the rows, 2 to 4 places with one string of 6..24 bytes.

    Its bytes are distinct. Places are random slots that never overlap, so every copy is whole.
    """
    out = rows.copy()
    length = out.shape[1]
    for index in np.flatnonzero(rng.random(len(out)) < share):
        row = out[index]
        size = int(rng.integers(6, 25))
        copies = int(rng.integers(2, 5))
        needle = rng.permutation(_PRINTABLE)[:size]
        slots = rng.permutation(length // size)[:copies]
        offset = int(rng.integers(0, length % size + 1))
        for slot in slots:
            row[offset + slot * size : offset + (slot + 1) * size] = needle
    return out
