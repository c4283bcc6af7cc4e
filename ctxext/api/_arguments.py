"""Arguments as people write them in Python: a name or several, 8192 or "8k"; held to their hints.

`checked` holds every argument of a public function to its type hint: what is of another type is one
sentence with the argument's name, wherever it would have failed.
"""

import collections.abc
import dataclasses
import functools
import inspect
import numbers
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from ctxext.errors import BadInput, shown
from ctxext.lengths import parse_length

P = ParamSpec("P")
R = TypeVar("R")

_NOUNS = {str: "text", int: "a whole number", float: "a number", bool: "True or False",
          Path: "a path", type(None): "None"}  # fmt: skip
_SCALARS = {int: numbers.Integral, float: numbers.Real}  # numpy's are among them


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Hold the arguments of a public function to its type hints.

    A path is taken for a text, as it names what the text would; numbers of numpy become Python's.

    Raises:
        BadInput: the first argument of another type; it is named.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python says what is missing, or not known
        hints = typing.get_type_hints(function)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _fitting(name, value, hints[name])
        return function(*bound.args, **bound.kwargs)

    return call


def check_fields(section: Any) -> None:
    """Hold the fields of a frozen dataclass to their type hints, as `checked` does arguments.

    Raises:
        BadInput: the first field of another type; it is named.
    """
    hints = typing.get_type_hints(type(section))
    for each in dataclasses.fields(section):
        value = _fitting(each.name, getattr(section, each.name), hints[each.name])
        object.__setattr__(section, each.name, value)


class _Unfit(Exception):
    """A value that no type of a hint takes."""


def _fitting(name: str, value: Any, hint: Any) -> Any:
    if isinstance(value, str | Path) and "\0" in str(value):
        raise BadInput(f"{name} is {shown(str(value))}: a NUL stands in no name", argument=name)
    try:
        return _taken(value, hint)
    except _Unfit:
        if {int, str} <= set(_options(hint)):
            raise _no_length(name, value) from None
        wanted = " or ".join(dict.fromkeys(_noun(option) for option in _options(hint)))
        raise BadInput(f"{name} has to be {wanted}, and is {shown(value)}", argument=name) from None


def _no_length(name: str, value: Any) -> BadInput:
    return BadInput(
        f"{name} is {shown(value)}, which is no length in tokens",
        "write 8192 or '8k'",
        argument=name,
    )


def _options(hint: Any) -> tuple[Any, ...]:
    """List the types of a union; a type alone is one of one."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)


def _taken(value: Any, hint: Any) -> Any:
    """Return a value as one of the types of a hint takes it.

    Raises:
        _Unfit: none does.
    """
    options = _options(hint)
    for option in options:
        try:
            return _taken_by(value, option, paths=Path in options)
        except _Unfit:
            continue
    raise _Unfit


def _taken_by(value: Any, hint: Any, *, paths: bool) -> Any:
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if hint is Any:
        return value
    if hint in _SCALARS:
        if isinstance(value, _SCALARS[hint]) and not isinstance(value, bool):
            return _number(value, hint)
    elif hint is str or origin is Literal:
        if isinstance(value, str):  # which words there are is said where they are known
            return value
        if isinstance(value, os.PathLike) and not paths:
            return os.fspath(value)
    elif origin is collections.abc.Sequence:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
            return [_taken(item, inner[0]) for item in value]
    elif origin is collections.abc.Mapping:
        if isinstance(value, Mapping):
            return {_taken(k, inner[0]): _taken(v, inner[1]) for k, v in value.items()}
    elif origin is collections.abc.Callable:
        if callable(value):
            return value
    elif isinstance(value, origin):
        return value
    raise _Unfit


def _number(value: Any, hint: type[int] | type[float]) -> int | float:
    """Return a number as Python's own; a whole one stays whole."""
    try:
        as_float = float(value)
    except OverflowError:
        if hint is float:
            raise _Unfit from None
    return int(value) if isinstance(value, numbers.Integral) else as_float


def _noun(hint: Any) -> str:
    """Say what a type takes."""
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Literal:
        return _NOUNS[str]
    if origin is collections.abc.Sequence:
        items = dict.fromkeys(_noun(option) for option in _options(inner[0]))
        return f"a list (each {' or '.join(items)})"
    if origin is collections.abc.Mapping:
        return "a dict with names as keys"
    if origin is collections.abc.Callable:
        return "a function"
    return _NOUNS.get(hint, f"a {origin.__name__}")


def several(names: str | Path | Sequence[str | Path], *, commas: bool = False) -> list[str]:
    """Put one name into a list; several stay as they are.

    Args:
        commas: whether one text may hold several, as on the command line.
    """
    if isinstance(names, str) and commas:
        return [name.strip() for name in names.split(",") if name.strip()]
    return [str(name) for name in ([names] if isinstance(names, str | Path) else names)]


def maybe_several(names: str | Sequence[str] | None) -> list[str] | None:
    """Read names that may be left out, as `several` with commas."""
    return None if names is None else several(names, commas=True)


def maybe_tokens(length: int | str | None, name: str) -> int | None:
    """Read a length that may be left out, as `one_length`."""
    return None if length is None else one_length(length, name)


def one_length(length: int | str, name: str, least: int = 1) -> int:
    """Read a length, as a number of tokens or as the command line takes it (`8k`).

    Raises:
        BadInput: it is none, below `least`, or 2**31 and more; `name` is said.
    """
    if not isinstance(length, str):
        if not least <= length < 2**31:
            raise BadInput(
                f"{name} is {shown(length)}, and has to be at least {least} and below 2**31 tokens",
                argument=name,
            )
        return length
    try:
        return parse_length(length, flag=name, least=least)
    except BadInput as error:
        error.argument = name
        raise


def several_lengths(lengths: int | str | Sequence[int | str], name: str) -> list[int]:
    """Read lengths, sorted and without doubles: `[1024, "8k"]`, `"1k,8k"`, or 8192.

    Raises:
        BadInput: as `one_length`.
    """
    if isinstance(lengths, str):
        lengths = [word.strip() for word in lengths.split(",")]
    every = lengths if isinstance(lengths, Sequence) else [lengths]
    return sorted({one_length(length, name) for length in every})


def maybe_lengths(lengths: int | str | Sequence[int | str] | None, name: str) -> list[int] | None:
    """Read lengths that may be left out, as `several_lengths`."""
    return None if lengths is None else several_lengths(lengths, name)
