"""Match module names with patterns that somebody else wrote, in bounded time.

`re` tries the ways through a pattern one after the other, and `((a+)+)+!` has more of them than
can be tried. Here all ways are walked at once: what is kept is the set of places in the name that
can be reached, so a step costs no more than the name is long. What a single character may be is
asked of `re`; look-around, back references and flags, which need more than places, are refused.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.errors import BadInput

_LONGEST, _GROUPS = 1000, 100
_STEPS = 5_000_000  # places looked at for one adapter: some seconds
_PLAIN = re.compile(r"(?:[\w-]|\\?\.)+")
_REPEAT = re.compile(r"([*+?]|\{(\d*)(,?)(\d*)\})(\??)(\+?)")
_CHARACTER = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]|\\[^0-9xuUN]|[^\\()|*+?]", re.DOTALL)

# Places in a name -> those that can be reached from them.
_Walk = Callable[[str, set[int]], set[int]]


class ByPattern:
    """Values by patterns of module names (`rank_pattern`): the first pattern that matches counts.

    A pattern matches, as in peft, the whole name or what follows any of its dots.
    """

    def __init__(self, patterns: Mapping[str, Any], *, where: str) -> None:
        """Compile `patterns` (regular expression -> value).

        Args:
            where: their key and file, for messages.

        Raises:
            BadInput: one is no regular expression, or cannot be matched in bounded time.
        """
        self._where, self._left = where, _STEPS
        self._walks = {pattern: self._compiled(pattern) for pattern in patterns}
        self._values = patterns

    def value_for(self, name: str, otherwise: Any) -> Any:
        """Return the value of the first pattern that matches a module's name, or `otherwise`.

        Raises:
            BadInput: names and patterns are too many or too long to be tried.
        """
        starts = {0, *(at + 1 for at, letter in enumerate(name) if letter == ".")}
        for pattern, walk in self._walks.items():
            if len(name) in walk(name, set(starts)):
                return self._values[pattern]
        return otherwise

    def _compiled(self, pattern: str) -> _Walk:
        if len(pattern) > _LONGEST:
            raise BadInput(f"{self._where} has a pattern of {len(pattern)} characters")
        if _PLAIN.fullmatch(pattern):
            return self._single(pattern)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what later versions of `re` may read anew
                re.compile(pattern)
                if pattern.count("(") > _GROUPS:
                    raise _TooMuch
                walk, end = self._branches(pattern, 0)
        except (re.error, OverflowError) as error:
            raise BadInput(
                f"{self._where} has {printable(pattern)!r}, no regular expression"
            ) from error
        except (_TooMuch, RecursionError):
            walk, end = _nowhere, -1
        if end != len(pattern):
            raise BadInput(
                f"{self._where} has {printable(pattern)!r}, more of a regular expression than is "
                "matched here",
                "write names, ., [...], (...), |, *, + and ? only",
            )
        return walk

    def _branches(self, pattern: str, at: int) -> tuple[_Walk, int]:
        """Compile `a|b` from a place in the pattern to the end of its group; return that end."""
        branches: list[_Walk] = []
        pieces: list[_Walk] = []
        while at < len(pattern) and pattern[at] != ")":
            if pattern[at] == "|":
                branches.append(_sequence(tuple(pieces)))
                pieces, at = [], at + 1
                continue
            piece, at = self._piece(pattern, at)
            pieces.append(piece)
        branches.append(_sequence(tuple(pieces)))
        return _either(tuple(branches)), at

    def _piece(self, pattern: str, at: int) -> tuple[_Walk, int]:
        """Compile one group or character with the count behind it."""
        if pattern[at] == "(":
            at += 3 if pattern.startswith("(?:", at) else 1
            if pattern.startswith("?", at):
                raise _TooMuch
            piece, at = self._branches(pattern, at)
            at += 1  # its parenthesis, which `re` has seen
        elif match := _CHARACTER.match(pattern, at):
            piece, at = self._single(match[0]), match.end()
        else:
            raise _TooMuch
        count = _REPEAT.match(pattern, at)
        if count is None or count[1] in ("{}", "{,}"):
            return piece, at
        if count[6]:  # possessive: it does not give back, which sets of places cannot say
            raise _TooMuch
        low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(count[1]) or (
            int(count[2] or 0),
            int(count[4]) if count[4] else None if count[3] else int(count[2]),
        )
        return _repeated(piece, low, high), count.end()

    def _single(self, text: str) -> _Walk:
        """Compile what has one way through: a character, a place such as `^`, or a plain name."""
        compiled = re.compile(text)

        def walk(name: str, starts: set[int]) -> set[int]:
            self._left -= len(starts)
            if self._left < 0:
                raise BadInput(
                    f"{self._where} has patterns that take too long to match",
                    "write the modules by their names",
                )
            return {match.end() for at in starts if (match := compiled.match(name, at))}

        return walk


class _TooMuch(Exception):
    """A pattern that needs more than sets of places."""


def _nowhere(name: str, starts: set[int]) -> set[int]:
    return set()


def _sequence(pieces: tuple[_Walk, ...]) -> _Walk:
    def walk(name: str, starts: set[int]) -> set[int]:
        for piece in pieces:
            if not starts:
                break
            starts = piece(name, starts)
        return starts

    return walk


def _either(branches: tuple[_Walk, ...]) -> _Walk:
    def walk(name: str, starts: set[int]) -> set[int]:
        return set().union(*(branch(name, starts) for branch in branches))

    return branches[0] if len(branches) == 1 else walk


def _repeated(piece: _Walk, low: int, high: int | None) -> _Walk:
    def walk(name: str, starts: set[int]) -> set[int]:
        for _ in range(low):
            before, starts = starts, piece(name, starts)
            if not starts or starts == before:  # more of the same changes nothing
                break
        reached, new, times = set(starts), starts, low
        while new and (high is None or times < high):
            # A place that fewer repetitions reached leads on at least as far.
            new, times = piece(name, new) - reached, times + 1
            reached |= new
        return reached

    return walk
