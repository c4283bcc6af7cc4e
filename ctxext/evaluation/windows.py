"""Which tokens a perplexity protocol reads together, and which of them it scores: pure counting."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass

from ctxext.errors import BadInput


@dataclass(frozen=True)
class Window:
    """Tokens [begin, end) of a document, of which the last `scored` are scored."""

    begin: int
    end: int
    scored: int

    @property
    def length(self) -> int:
        return self.end - self.begin


def sliding_windows(tokens: int, length: int, stride: int) -> list[Window]:
    """Windows of `length` moved by `stride`; every token but the first is scored once.

    The first window scores all but its first token, each later one what no window scored before:
    `stride` tokens, fewer at the end of the text, where the window is shorter too. The procedure
    of the transformers documentation ("Perplexity of fixed-length models").

    >>> [(w.begin, w.end, w.scored) for w in sliding_windows(10, length=6, stride=3)]
    [(0, 6, 5), (3, 9, 3), (6, 10, 1)]
    """
    windows = []
    scored_to = 1
    for begin in range(0, tokens, stride):
        end = min(begin + length, tokens)
        # A window's own first token has nothing before it to be predicted from.
        scored = min(end - scored_to, end - begin - 1)
        if scored > 0:
            windows.append(Window(begin, end, scored))
        scored_to = end
        if end == tokens:
            break
    return windows


def step_within(stride: int, length: int) -> int:
    """Tokens between windows of `length`: the stride, where it is no longer than they are.

    A longer one would leave tokens out; one token less than the window scores all of them.

    >>> [step_within(256, length) for length in (512, 256, 64)]
    [256, 256, 63]
    """
    return stride if stride <= length else length - 1


def aligned_windows(tokens: int, length: int, lengths: Sequence[int], stride: int) -> list[Window]:
    """Windows of `length` that score the same tokens as those of every other of `lengths`.

    Windows of the longest length are moved by `stride`; scored are the last `stride` tokens of
    each, at most the shortest length less its first token. A shorter window ends where the long
    one does, so it sees less of what came before, and nothing else differs.

    >>> [(w.begin, w.end, w.scored) for w in aligned_windows(10, 4, (4, 8), stride=2)]
    [(4, 8, 2), (6, 10, 2)]
    """
    scored = min(stride, min(lengths) - 1)
    return [Window(end - length, end, scored) for end in range(max(lengths), tokens + 1, stride)]


def disjoint_windows(tokens: int, length: int, *, whole: bool = False) -> list[Window]:
    """Windows side by side; each scores all but its first token.

    Args:
        whole: leave out a shorter last window.
    """
    windows = sliding_windows(tokens, length, length)
    return [w for w in windows if w.length == length] if whole else windows


def position_edges(length: int) -> list[int]:
    """Bucket edges 0, 128, 256, 512, ... `length`; smaller ones for windows below 512.

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


def readable(documents: Sequence[Sized], length: int, *, source: str) -> list[int]:
    """Which documents fill at least one window, so that every length scores the same text.

    Raises:
        BadInput: none does.
    """
    if length < 2:
        raise BadInput(f"--lengths has {length}, and a window needs at least 2 tokens")
    long = [index for index, d in enumerate(documents) if len(d) >= length]
    if not long:
        longest = max((len(d) for d in documents), default=0)
        raise BadInput(
            f"--data {source} has no document of {length} tokens (the longest read has {longest})",
            "give longer text, more --tokens, or shorter --lengths",
        )
    return long
