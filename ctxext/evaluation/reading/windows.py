"""Which tokens a perplexity protocol reads together, and which of them it scores: pure counting."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import numpy.typing as npt

from ctxext.errors import BadInput


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens [begin, end) of a document, of which the last `scored` are scored."""

    begin: int
    end: int
    scored: int

    @property
    def length(self) -> int:
        return self.end - self.begin


class Plan(Sequence[tuple[int, Window]]):
    """Windows in order, each with the index of its document; a few bytes each, however many."""

    def __init__(self, windows: "Iterable[tuple[int, Window]] | npt.NDArray[np.int64]") -> None:
        """Take the windows that are planned, or rows of another plan, (windows, 4)."""
        if not isinstance(windows, np.ndarray):
            rows = ((d, w.begin, w.end, w.scored) for d, w in windows)
            windows = np.fromiter(rows, dtype=np.dtype((np.int64, 4)))
        self._rows = windows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> tuple[int, Window]: ...
    @overload
    def __getitem__(self, index: slice) -> "Plan": ...

    def __getitem__(self, index: int | slice) -> "tuple[int, Window] | Plan":
        if isinstance(index, slice):
            return Plan(self._rows[index])
        document, begin, end, scored = self._rows[index].tolist()
        return document, Window(begin, end, scored)

    @property
    def scored(self) -> npt.NDArray[np.float64]:
        """The tokens that each window scores, (windows,)."""
        return self._rows[:, 3].astype(np.float64)

    def cost(self, of: Callable[[int], float]) -> float:
        """Add up what the windows cost, by what one of so many tokens does."""
        lengths, counts = np.unique(self._rows[:, 2] - self._rows[:, 1], return_counts=True)
        return sum(of(int(n)) * int(count) for n, count in zip(lengths, counts, strict=True))

    def batches(self, tokens: int, windows: int | None = None) -> "list[Plan]":
        """Group neighbours of the same shape, up to so many tokens, or windows, together."""
        rows = self._rows
        shape = np.stack([rows[:, 2] - rows[:, 1], rows[:, 3]], axis=1)
        changes = 1 + np.flatnonzero((shape[1:] != shape[:-1]).any(axis=1))
        out = []
        for first, last in zip([0, *changes.tolist()], [*changes.tolist(), len(rows)], strict=True):
            step = windows or (max(1, tokens // int(shape[first, 0])) if last > first else 1)
            out += [self[at : min(at + step, last)] for at in range(first, last, step)]
        return out


def sliding_windows(tokens: int, length: int, stride: int) -> Iterator[Window]:
    """Yield windows of `length` moved by `stride`; every token but the first is scored once.

    The first window scores all but its first token, each later one what no window scored before:
    `stride` tokens, fewer at the end of the text, where the window is shorter too. The procedure
    of the transformers documentation ("Perplexity of fixed-length models").

    >>> [(w.begin, w.end, w.scored) for w in sliding_windows(10, length=6, stride=3)]
    [(0, 6, 5), (3, 9, 3), (6, 10, 1)]
    """
    scored_to = 1
    for begin in range(0, tokens, stride):
        end = min(begin + length, tokens)
        # A window's own first token has nothing before it to be predicted from.
        scored = min(end - scored_to, end - begin - 1)
        if scored > 0:
            yield Window(begin, end, scored)
        scored_to = end
        if end == tokens:
            break


def step_within(stride: int, length: int) -> int:
    """Return the tokens between windows of `length`: the stride, unless that is longer.

    A longer one would leave tokens out; one token less than the window scores all of them.

    >>> [step_within(256, length) for length in (512, 256, 64)]
    [256, 256, 63]
    """
    return stride if stride <= length else length - 1


def aligned_windows(
    tokens: int, length: int, lengths: Sequence[int], stride: int
) -> Iterator[Window]:
    """Yield windows of `length` that score the same tokens as those of every other of `lengths`.

    Windows of the longest length are moved by `stride`; scored are the last `stride` tokens of
    each, at most the shortest length less its first token. A shorter window ends where the long
    one does, so it sees less of what came before, and nothing else differs.

    >>> [(w.begin, w.end, w.scored) for w in aligned_windows(10, 4, (4, 8), stride=2)]
    [(4, 8, 2), (6, 10, 2)]
    """
    scored = min(stride, min(lengths) - 1)
    for end in range(max(lengths), tokens + 1, stride):
        yield Window(end - length, end, scored)


def disjoint_windows(tokens: int, length: int, *, whole: bool = False) -> Iterator[Window]:
    """Yield windows side by side; each scores all but its first token.

    Args:
        whole: leave out a shorter last window.
    """
    for window in sliding_windows(tokens, length, length):
        if window.length == length or not whole:
            yield window


def position_edges(length: int) -> list[int]:
    """List the bucket edges 0, 128, 256, 512, ... `length`; smaller ones for windows below 512.

    >>> position_edges(2048)
    [0, 128, 256, 512, 1024, 2048]
    """
    edge = 128
    while edge * 4 > length and edge > 2:
        edge //= 2
    edges = [0]
    while edge < length:
        edges.append(edge)
        edge *= 2
    return [*edges, length]


def readable(tokens: npt.NDArray[np.int64], length: int, *, source: str) -> list[int]:
    """Find the documents that fill at least one window, so that all lengths score the same text.

    Args:
        tokens: (documents,) of each.

    Raises:
        BadInput: none does.
    """
    if length < 2:
        raise BadInput(f"--lengths has {length}, and a window needs at least 2 tokens")
    long: list[int] = np.flatnonzero(tokens >= length).tolist()
    if not long:
        raise BadInput(
            f"--data {source} has no document of {length} tokens (the longest read has "
            f"{int(tokens.max(initial=0))})",
            "give longer text, more --tokens, or shorter --lengths",
        )
    return long
