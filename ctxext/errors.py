"""The one family of errors: each message is one sentence that names the file or flag."""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")
_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]*[a-z])")
_MEMORY_FULL = re.compile(
    r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory"
)

EMPTY = "a variable of the shell that is not set gives that"
"""The hint where nothing was typed in the place of a name."""


class CtxextError(Exception):
    """An error of work that was asked for rightly and failed. Exit code 1.

    Args:
        message: one sentence: what is wrong, and where.
        hint: the way out, one sentence; printed below the message.
        path: the file or folder at fault; None where it is none, or lies on the Hub.
        argument: the Python argument that can be mended; None = the first flag of the message
            (`--output-dir`: "output_dir"), if it names one.
    """

    exit_code = 1
    alone = False  # raised by one process of several, so that it has to speak for itself

    def __init__(
        self, message: str, hint: str = "", *, path: Path | None = None, argument: str | None = None
    ) -> None:
        # A name in it may hold anything; a terminal gets one line of text, and no codes.
        super().__init__(on_one_line(message))
        self.hint = hint
        self.path = path
        flag = _FLAG.search(message)
        self.argument = argument or (flag[1].replace("-", "_") if flag else None)


class BadInput(CtxextError):
    """An error in a file, flag or value, which the user can mend. Exit code 2."""

    exit_code = 2


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Give the errors of a block the path that they are about, where none was given further in."""
    try:
        yield
    except CtxextError as error:
        error.path = error.path or path
        raise


def about_its_path(
    function: Callable[Concatenate[Path, _P], _R],
) -> Callable[Concatenate[Path, _P], _R]:
    """Give the errors of a function the path that it reads or checks, its first argument."""

    @wraps(function)
    def carrying(path: Path, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        with about(path):
            return function(path, *args, **kwargs)

    return carrying


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, or the error's class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def on_one_line(text: str) -> str:
    """Escape what cannot be printed in a text, as Python would."""
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)


def shown(value: object, limit: int = 80) -> str:
    """Write a value as it may stand in a sentence: on one line, and not long."""
    if isinstance(value, int) and abs(value) >= 10**limit:  # Python may refuse to print it
        return "a number of more than 80 digits"
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"


def is_disk_full(error: Exception) -> bool:
    """Tell whether an exception, a library's by its text, says that the disk is full."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an exception of Python or torch says that GPU or host memory ran out."""
    if isinstance(error, MemoryError):
        return True
    # torch.OutOfMemoryError is a RuntimeError; a CPU's allocator raises a plain one.
    return isinstance(error, RuntimeError) and bool(_MEMORY_FULL.search(str(error)))
