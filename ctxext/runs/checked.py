"""Read ctxext's own JSON documents, here alone: every value is looked at once, as it is read.

A document may come from another machine or another hand. Its texts are made printable here, and its
values checked against the fields of a dataclass (`ctxext.runs.build`); behind it nobody has to
doubt a size, a range, a hash or a text any more.
"""

import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ctxext.errors import BadInput, about_its_path
from ctxext.runs.json_file import read_json_object

T = TypeVar("T")

_TEXT = 100_000  # characters
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


class Broken(Exception):
    """An error that says where in a document a wrong value stands, and what it is."""


@about_its_path
def read_checked(
    path: Path, schema: str | None, read: Callable[[dict[str, Any]], T], *, hint: str = ""
) -> T:
    """Read a document of a known schema, its texts made printable and its values checked.

    Args:
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


def excerpt(value: Any) -> str:
    """Write the beginning of a value, for a message: one line, no control characters."""
    return printable_text(_repr.repr(value))


def printable_text(text: str) -> str:
    """Replace control characters, direction marks and halves of surrogate pairs in a text.

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
    """Make all texts and keys of a JSON value printable.

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
