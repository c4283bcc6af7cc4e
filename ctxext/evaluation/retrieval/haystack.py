"""The text that hides a needle: real text, RULER's noise, or pairs like the needle."""

import bisect
import random
import re
from collections.abc import Callable, Sequence

from ctxext.data.sources import Source
from ctxext.errors import BadInput

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
_UNIT = re.compile(r"\S+\s*|\s+")
_TRIES = 50
_READ = 64 * 1024 * 1024  # characters of a text

Haystack = Callable[[random.Random, int, Sequence[str]], str]
"""(random, characters, strings it may not hold) -> text of at least so many characters."""


def noise(draw: random.Random, size: int, unique: Sequence[str]) -> str:
    """Repeat RULER's five sentences."""
    return NOISE * (size // len(NOISE) + 1)


def text_haystack(documents: Sequence[str]) -> Haystack:
    """Slice real text, from a random line on, over document ends where one is too short."""
    whole = "\n".join(document.strip("\n") for document in documents) + "\n"
    starts = [0, *(match.end() for match in re.finditer(r"\n", whole))]
    starts = [start for start in starts if start < len(whole)]

    def cut(draw: random.Random, size: int, unique: Sequence[str]) -> str:
        last = bisect.bisect_right(starts, max(0, len(whole) - size))
        for _ in range(_TRIES):
            at = starts[draw.randrange(max(1, last))]
            text = whole[at : at + size]
            while len(text) < size:
                text += whole[: size - len(text)]
            if not any(word in text for word in unique):
                return text
        raise BadInput(
            "--data: the text holds the names or numbers that are asked for nearly everywhere",
            "give other text, or leave out --data for noise",
        )

    return cut


def haystack_of(source: Source | None) -> Haystack:
    """Read the text of `--data`, as much as needles are hidden in; None = noise."""
    if source is None:
        return noise
    documents: list[str] = []
    size = 0
    for piece in source.pieces():
        if piece.continues and documents:
            documents[-1] += piece.text
        else:
            documents.append(piece.text)
        size += len(piece.text)
        if size > _READ:
            break
    return text_haystack(documents)


def pair_haystack(make: Callable[[], str]) -> Haystack:
    """Make lines of other pairs; those that hold what is asked for are made anew."""

    def cut(draw: random.Random, size: int, unique: Sequence[str]) -> str:
        lines: list[str] = []
        length = 0
        while length < size:
            line = make()
            if not any(word in line for word in unique):
                lines.append(line)
                length += len(line)
        return "".join(lines)

    return cut


def unit_ends(text: str) -> list[int]:
    """List where a text may be cut: before its first word, behind each word and its white space."""
    return [0, *(match.end() for match in _UNIT.finditer(text))]


def hide(text: str, needles: Sequence[tuple[float, str]]) -> str:
    """Put needles into a text: on lines of their own where it has lines, else between words.

    Args:
        needles: (depth 0..1, words); those of one depth stay in order.
    """
    lined = "\n" in text
    if lined:
        places = [0, *(match.end() for match in re.finditer(r"\n", text)), len(text)]
    else:
        places = unit_ends(text)
    close = "\n" if lined else " "
    out, at = "", 0
    for depth, words in sorted(needles, key=lambda needle: needle[0]):
        place = max(at, _nearest(places, depth * len(text)))
        out += text[at:place]
        joint = close if out and not out[-1].isspace() else ""
        out += f"{joint}{words}{close}"
        at = place
    return out + text[at:]


def _nearest(places: Sequence[int], wanted: float) -> int:
    index = bisect.bisect_left(places, wanted)
    return min(places[max(0, index - 1) : index + 1], key=lambda place: abs(place - wanted))
