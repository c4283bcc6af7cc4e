"""The one reader of ctxext's own JSON documents: every value is looked at once, when it is read.

A document may come from another machine or another hand. A shape names what each key promises;
behind it nobody has to doubt a size, a range, a hash or a text any more.
"""

import math
import re
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ctxext.errors import BadInput
from ctxext.runs.json_file import read_json_object
from ctxext.runs.numbers import finite

Check = Callable[[Any], Any]
"""Gives back a value as it is to be used, or raises `Wrong`."""
Shape = Mapping[str, Check]
T = TypeVar("T")

_WINDOW = 2**31  # tokens
_NAME = 1000  # characters
_TEXT = 100_000
_LARGEST = 1e15  # of what is measured: beyond it, charts and formats break
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


class Wrong(ValueError):
    """A value that is not what its key promises."""


class Broken(Exception):
    """Where in a document a wrong value stands, and what it is."""


def read_checked(
    path: Path, schema: str | None, read: Callable[[dict[str, Any]], T], *, hint: str = ""
) -> T:
    """Read a document of a known schema, its texts made printable and its values checked.

    Args:
        path: the file.
        schema: the one that this ctxext reads; None = the file names none.
        read: makes of the object what is returned, or raises `Broken`.
        hint: the way out where it is broken.

    Raises:
        BadInput: as `read_json_object`, another schema, or a broken value; file and key are named.
    """
    document, _ = read_json_object(path)
    try:
        document = printable_texts(document)
        said = document.get("schema")
        if schema is not None and said != schema:
            raise BadInput(
                f"{path} has the schema {excerpt(said)}, and this ctxext reads {schema}",
                "upgrade ctxext",
            )
        return read(document)
    except Broken as error:
        raise BadInput(f"{path} is broken: {error}", hint) from error


def checked(value: Any, shape: Shape) -> dict[str, Any]:
    """Give back the object with every key of the shape, each value as its check returns it.

    Raises:
        Broken: the place and what stands there.
    """
    if not isinstance(value, dict):
        raise Broken(f"{excerpt(value)} is no object")
    values = dict(value)
    for key, check in shape.items():
        try:
            values[key] = check(value.get(key))
        except Wrong as error:
            shown = excerpt(value[key]) if key in value else "missing"
            raise Broken(f"{key} is {shown}") from error
        except Broken as error:
            raise Broken(f"in {key}, {error}") from error
    return values


def excerpt(value: Any) -> str:
    """The beginning of a value, for a message: one line, no control characters."""
    return printable_text(_repr.repr(value))


def printable_text(text: str) -> str:
    """Text without control characters, direction marks and halves of surrogate pairs.

    White space becomes a blank; everything else that nobody sees, the replacement character.

    >>> printable_text("a\\nb")
    'a b'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def printable_texts(value: Any) -> Any:
    """A JSON value with all its texts and keys printable.

    Raises:
        Broken: a text or a whole number longer than any that ctxext writes.
    """
    if isinstance(value, str):
        if len(value) > _TEXT:
            raise Broken(f"it holds a text of {len(value):,} characters")
        return printable_text(value)
    if isinstance(value, dict):
        return {printable_texts(key): printable_texts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [printable_texts(inner) for inner in value]
    if isinstance(value, int) and abs(value) > 2**64:
        raise Broken(f"it holds the number {str(value)[:12]}…, which is too large")
    return value


def name(value: Any) -> str:
    """Text that is there and short."""
    if not isinstance(value, str) or not value.strip() or len(value) > _NAME:
        raise Wrong
    return value


def text(value: Any) -> str:
    """Any text; None is none."""
    if not isinstance(value, str | None):
        raise Wrong
    return value or ""


def sha256(value: Any) -> str:
    """Hex digest of a file."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise Wrong
    return value


def commit(value: Any) -> str:
    """Commit of a repository."""
    if not isinstance(value, str) or not _COMMIT.fullmatch(value):
        raise Wrong
    return value


def tokens(value: Any) -> int:
    """A window, a length or a position: from 1 to 2**31 - 1 tokens."""
    if count(value) == 0 or value >= _WINDOW:
        raise Wrong
    return int(value)


def start(value: Any) -> int:
    """A position, 0 included."""
    return 0 if value == 0 and not isinstance(value, bool) else tokens(value)


def theta(value: Any) -> float:
    """The base of a rotary encoding: above 1."""
    known = finite(value)
    if known is None or not known > 1:
        raise Wrong
    return known


def count(value: Any) -> int:
    """A whole number that is not negative."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise Wrong
    return value


def share(value: Any) -> float:
    """A number from 0 to 1."""
    known = finite(value)
    if known is None or not 0 <= known <= 1:
        raise Wrong
    return known


def measured(value: Any) -> int | float | None:
    """A number, None where there is none or it is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise Wrong
    if finite(value) is None:
        return None
    if abs(value or 0) > _LARGEST:
        raise Wrong
    return value


def positive(value: Any) -> int | float | None:
    """A number above 0; None as in `measured`."""
    known = measured(value)
    if known is not None and known <= 0:
        raise Wrong
    return known


def perplexity(value: Any) -> float | None:
    """A perplexity, as large as a float can be where a model explodes; None as in `measured`."""
    known = finite(value)
    return known if known is not None and known > 0 else positive(value)


def error_bar(value: Any) -> int | float | None:
    """A standard error, nats or a share; None as in `measured`."""
    known = measured(value)
    if known is not None and known < 0:
        raise Wrong
    return known


def flag(value: Any) -> bool:
    """True or false; None is false."""
    if not isinstance(value, bool | None):
        raise Wrong
    return bool(value)


def word(value: Any) -> str | int | float | bool | None:
    """A setting: text, a number, true or false; None where there is none."""
    if not isinstance(value, str | int | float | bool | None):
        raise Wrong
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return name(value) if isinstance(value, str) and value else value


def words(value: Any) -> list[str]:
    """A list of texts; None is an empty one."""
    if not isinstance(value, list | None):
        raise Wrong
    return [str(item) for item in value or ()]


def mapping(value: Any) -> dict[str, Any]:
    """An object with any keys; None is an empty one."""
    if not isinstance(value, dict | None):
        raise Wrong
    return value or {}


def texts_by_name(value: Any) -> dict[str, str]:
    """An object of short texts; None is an empty one."""
    return {name(key): name(inner) for key, inner in mapping(value).items()}


def maybe(check: Check) -> Check:
    """The check, or None where there is nothing."""
    return lambda value: None if value is None else check(value)


def section(shape: Shape) -> Check:
    """An object of this shape."""
    return lambda value: checked(value, shape)


def rows(shape: Shape) -> Check:
    """A list of objects of this shape."""

    def check(value: Any) -> list[dict[str, Any]]:
        if not isinstance(value, list):
            raise Wrong
        return [checked(row, shape) for row in value]

    return check
