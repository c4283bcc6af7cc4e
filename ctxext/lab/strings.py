"""Rows with random strings that come again: what teaches a small decoder to copy, and asks it to.

Strings are of the 26 capital letters, which program text seldom has, each letter once. The first
copy of a string cannot be predicted, so that rows come with weights: 0 there, 1 elsewhere.
"""

import numpy as np
import numpy.typing as npt

from ctxext.lab.rows import Rows, text_rows

LETTERS = np.arange(65, 91, dtype=np.uint8)
Weights = npt.NDArray[np.float32]


def tiled_strings(
    rng: np.random.Generator, rows: int, length: int, longest: int
) -> tuple[Rows, Weights]:
    """Draw rows that are one string over and over, its period uniform in 3..`longest` (26 at most).

    Returns:
        (rows, length) uint8, and the weight of each token as a thing to predict.
    """
    out = np.empty((rows, length), dtype=np.uint8)
    weights = np.ones((rows, length), dtype=np.float32)
    for index, row in enumerate(out):
        period = int(rng.integers(3, min(longest, len(LETTERS)) + 1))
        row[:] = np.tile(rng.permutation(LETTERS)[:period], length // period + 1)[:length]
        weights[index, : period + 1] = 0
    return out, weights


def planted_strings(
    rng: np.random.Generator, text: Rows, rows: int, length: int, *, share: float = 0.6
) -> tuple[Rows, Weights]:
    """Cut rows of text and write strings of 6 to 12 letters over them, each 2 to 4 times.

    Args:
        text: uint8, one long stream.
        share: of the room that strings take, about.

    Returns:
        As `tiled_strings`; of each further copy, the first two letters weigh nothing.
    """
    out = text_rows(rng, text, rows, length).copy()
    weights = np.ones((rows, length), dtype=np.float32)
    for row, weight in zip(out, weights, strict=True):
        size = int(rng.integers(6, 13))
        slots = rng.permutation(length // size)
        copies = max(2, min(int(rng.integers(2, 5)), len(slots)))
        for group in range(max(1, int(len(slots) * share) // copies)):
            string = rng.permutation(LETTERS)[:size]
            for nth, slot in enumerate(sorted(slots[group * copies : (group + 1) * copies])):
                begin = slot * size
                row[begin : begin + size] = string
                weight[begin : begin + (size if nth == 0 else 2)] = 0
    return out, weights


def asked_strings(
    rng: np.random.Generator, text: Rows, rows: int, length: int, *, distance: int, size: int
) -> tuple[Rows, Rows]:
    """Make rows that end with a string, which stands `distance` tokens earlier as well.

    Returns:
        The rows, and the same rows with another string in the earlier place: what a decoder knows
        of the last one without having read it. Both (rows, length) uint8.
    """
    told = text_rows(rng, text, rows, length).copy()
    other = told.copy()
    end, begin = length - size, length - size - distance
    for one, two in zip(told, other, strict=True):
        string = rng.permutation(LETTERS)[:size]
        one[end:] = two[end:] = one[begin : begin + size] = string
        two[begin : begin + size] = rng.permutation(LETTERS)[:size]
    return told, other
