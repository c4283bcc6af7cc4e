"""Check plain values of YAML or JSON, field by field, and make a dataclass of them.

What a field may hold is said by its type and its bounds (`ctxext.runs.fields`). Two readers differ
in what they forgive. `build` reads what people write in a recipe, and refuses a key that nobody
knows. `from_document` reads what a ctxext wrote, perhaps an older or a newer one: it passes over
other keys, and a field with a default may be missing or null.
"""

import dataclasses
import functools
import numbers
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal, TypeVar

from ctxext.choices import suggestion
from ctxext.errors import BadInput, shown
from ctxext.lengths import parse_length
from ctxext.runs.checked import Broken, excerpt
from ctxext.runs.fields import TOKENS, inside
from ctxext.runs.numbers import finite

T = TypeVar("T")
_Place = tuple[str | int, ...]

_NAME = 1000  # characters
_LARGEST = 1e15  # of what is measured: beyond it, charts and formats break
_COUNT = {"least": 0, "most": 2**63 - 1}  # of a whole number that says no bounds
_LISTS = {"data": "sources"}  # sections that may be written as the list in one of their keys
_SECTION = "a section with keys"
_WANTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class _Unfit(Exception):
    """A value that is not what its field promises."""

    def __init__(
        self, place: _Place, value: Any, wanted: str = "", *, missing: bool = False
    ) -> None:
        super().__init__()
        self.place, self.value, self.wanted, self.missing = place, value, wanted, missing


def build(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Make a (nested) dataclass of what a recipe says, every key and type checked.

    Raises:
        BadInput: an unknown key (with the nearest known one), a value of the wrong type, or one
            that the dataclass itself refuses.
    """
    try:
        built: T = _section(cls, values, (where,), forgiving=False)
    except _Unfit as error:
        wanted, value = error.wanted, shown(error.value)
        raise BadInput(f"{_path(error.place)} has to be {wanted}, and is {value}") from None
    return built


def as_written(section: Any, name: str) -> None:
    """Read the fields of a section made in Python, called `name`, as those of a recipe are read.

    Raises:
        BadInput: a value of the wrong type; the field is named.
    """
    cls: Any = type(section)
    for each in dataclasses.fields(section):
        value, known = getattr(section, each.name), _fields_of(cls)[each.name]
        try:
            value = _value(known, _plain(value), (name, each.name), forgiving=False, missing=False)
        except _Unfit as error:
            raise BadInput(
                f"{_path(error.place)} has to be {error.wanted}, and is {shown(error.value)}",
                argument=each.name,
            ) from None
        except BadInput as error:
            error.argument = error.argument or each.name
            raise
        object.__setattr__(section, each.name, value)


def _plain(value: Any) -> Any:
    """Make of a value in Python what a recipe would hold: lists, and Python's own numbers."""
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, bool | int | float) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def from_document(cls: type[T], values: Any) -> T:
    """Make a (nested) dataclass of an object in a document, every value checked against its field.

    Raises:
        Broken: the place of a wrong value, and what stands there.
    """
    try:
        built: T = _section(cls, values, (), forgiving=True)
    except _Unfit as error:
        keys = [str(key) for key in error.place if isinstance(key, str)]
        said = "missing" if error.missing else excerpt(error.value)
        last = f"{keys.pop()} is {said}" if error.wanted != _SECTION else f"{said} is no object"
        raise Broken("".join(f"in {key}, " for key in keys) + last) from None
    return built


def as_section(name: str, value: Any) -> Any:
    """Take a section written as the list in one of its keys (`data: [...]`) as that section."""
    return {_LISTS[name]: value} if name in _LISTS and isinstance(value, list) else value


@dataclass(frozen=True)
class _Field:
    """What a field may hold: one of `types`, or None where it is `nullable`."""

    types: tuple[Any, ...]
    nullable: bool
    required: bool
    metadata: Mapping[str, Any]


@functools.cache
def _fields_of(cls: type[Any]) -> Mapping[str, _Field]:
    hints, known = typing.get_type_hints(cls), {}
    for each in dataclasses.fields(cls):
        hint = hints[each.name]
        union = typing.get_origin(hint) in (types.UnionType, typing.Union)
        options = typing.get_args(hint) if union else (hint,)
        wanted = tuple(
            str if typing.get_origin(option) is Literal else option  # its words are in the bounds
            for option in options
            if option is not type(None)
        )
        required = each.default is MISSING and each.default_factory is MISSING
        known[each.name] = _Field(wanted, len(wanted) < len(options), required, each.metadata)
    return known


def _section(cls: Any, values: Any, place: _Place, *, forgiving: bool) -> Any:
    if isinstance(values, cls) and not forgiving:  # made in Python, and checked when it was
        return values
    if not isinstance(values, Mapping):
        raise _Unfit(place, values, _SECTION)
    known = _fields_of(cls)
    if not forgiving:
        _refuse_unknown(values, known, _path(place))
    built: dict[str, Any] = {}
    for name, each in known.items():
        value = values.get(name)
        missing = name not in values
        if not each.required and (missing or (forgiving and value is None)):
            continue
        where = (*place, name)
        built[name] = _value(each, value, where, forgiving=forgiving, missing=missing)
    return cls(**built)


def _refuse_unknown(values: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for key in values:
        if key not in known:
            raise BadInput(f"{where} has no key {shown(key)}", suggestion(key, known))


def _value(each: _Field, value: Any, place: _Place, *, forgiving: bool, missing: bool) -> Any:
    if value is None and each.nullable:
        return None
    hint = each.types[0]
    if dataclasses.is_dataclass(hint):
        value = value if forgiving else as_section(str(place[-1]), value)
        return _section(hint, value, place, forgiving=forgiving)
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and dataclasses.is_dataclass(inner[0]):
        if not isinstance(value, list) or not (
            forgiving or all(isinstance(item, Mapping | inner[0]) for item in value)
        ):
            raise _Unfit(place, value, "a list of sections", missing=missing)
        return tuple(
            _section(inner[0], item, (*place, number), forgiving=forgiving)
            for number, item in enumerate(value)
        )
    if hint is Any:
        return value
    if origin is Mapping and not (
        isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    ):
        raise _Unfit(place, value, "keys with values")
    if forgiving:
        return _measured(each, value, place, missing=missing)
    return _written(each, value, place)


def _written(each: _Field, value: Any, place: _Place) -> Any:
    """Take a value as people write it: 32k, `a,b` for a list, 1 for 1.0."""
    hint = next((h for h in each.types if type(value) is h), each.types[0])
    if each.metadata.get("unit") == TOKENS and isinstance(value, str):
        return parse_length(value, flag=_path(place))
    origin = typing.get_origin(hint)
    if origin is Mapping:
        return dict(value)
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
            raise _Unfit(place, value, "a list of names")
        return tuple(item.strip() for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise BadInput(f"{_path(place)} has more than 308 digits") from None
    if type(value) is not hint:
        wanted = dict.fromkeys(_WANTED.get(option, str(option)) for option in each.types)
        raise _Unfit(place, value, " or ".join(wanted))
    return value


def _measured(each: _Field, value: Any, place: _Place, *, missing: bool) -> Any:
    """Take a value as a run writes it."""
    origin, inner = typing.get_origin(each.types[0]), typing.get_args(each.types[0])
    if origin is tuple:
        if not isinstance(value, list):
            raise _Unfit(place, value, missing=missing)
        item = _Field((inner[0],), nullable=False, required=False, metadata=each.metadata)
        return tuple(_scalar(item, v, place, missing=False) for v in value)
    if origin is Mapping:
        if inner[1] is not str:
            return dict(value)
        item = _Field((str,), nullable=False, required=True, metadata={})
        return {_scalar(item, k, place): _scalar(item, v, place) for k, v in value.items()}
    return _scalar(each, value, place, missing=missing)


def _scalar(each: _Field, value: Any, place: _Place, *, missing: bool = False) -> Any:
    """Take a text, a flag or a number; a number that is not finite is None where that may be."""
    bounds = each.metadata.get("bounds", {})
    if isinstance(value, bool) or value is None or not isinstance(value, str | int | float):
        fits = isinstance(value, bool) and bool in each.types
    elif isinstance(value, str):
        fits = str in each.types and _is_text(each, value)
    elif finite(value) is None:
        if each.nullable and float in each.types:
            return None
        fits = False
    elif float in each.types:
        fits = inside(value, bounds) and ("most" in bounds or abs(value) <= _LARGEST)
    else:
        fits = isinstance(value, int) and int in each.types and inside(value, {**_COUNT, **bounds})
    if not fits:
        raise _Unfit(place, value, missing=missing)
    return value


def _is_text(each: _Field, value: str) -> bool:
    """Tell whether a text is one that a field holds: a name, or with the default "" any text."""
    if words := each.metadata.get("words"):
        return value in words
    if pattern := each.metadata.get("matches"):
        return bool(pattern.fullmatch(value))
    if each.required or (each.types == (str,) and each.nullable):
        return bool(value.strip()) and len(value) <= _NAME
    return len(each.types) == 1 or len(value) <= _NAME


def _path(place: _Place) -> str:
    """Write a place as `recipe.data.sources[0].weight`."""
    path = ""
    for step in place:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path
