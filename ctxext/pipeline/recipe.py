"""Recipes: YAML files that fix a run, read with distrust and checked key by key."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ctxext.errors import BadInput
from ctxext.lengths import parse_length

T = TypeVar("T")
_MAX_BYTES = 1024 * 1024
_LISTS = {"data": "sources"}  # sections that may be written as the list in one of their keys


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases (a few lines of them can fill any memory), doubles refused."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(
                None,
                None,
                "aliases (*name) are not allowed in a recipe",
                self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not text (quote it)", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


# YAML 1.1 reads 1e-4 as a string, because it has no dot. Everybody means the number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_recipe(path: Path) -> dict[str, Any]:
    """A recipe file as nested plain values.

    Raises:
        BadInput: missing, not YAML, aliases, tags, doubled keys, not a mapping; with the line.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise BadInput(f"--recipe {path} is not a regular file")
        if path.stat().st_size > _MAX_BYTES:
            raise BadInput(f"--recipe {path} is larger than 1 MiB, which no recipe is")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"--recipe {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"--recipe {path} is not UTF-8 text") from error
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"--recipe {path}{where}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # 2020-13-45 is no day
        raise BadInput(f"--recipe {path} is not YAML: {str(error).splitlines()[0]}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"--recipe {path} holds no sections")
    return value


def find_recipe(given: str) -> Path:
    """`--recipe`: a file, or a recipe that comes with ctxext, by its name.

    Raises:
        BadInput: it looks like a name, and is none.
    """
    path = Path(given)
    named = path.name == given and not path.suffix and not path.exists()
    return shipped_recipe(given) if named else path


def shipped_recipe(name: str) -> Path:
    """The file of a recipe that comes with ctxext, by its name without `.yaml`.

    Raises:
        BadInput: there is no such recipe; the nearest is offered.
    """
    package = Path(__file__).parent.parent
    # In a wheel the recipes lie inside the package, in a checkout beside it.
    folders = [f for f in (package / "recipes", package.parent / "recipes") if f.is_dir()]
    known = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise BadInput(
            f"there is no recipe '{name}'",
            f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}",
        )
    return known[name]


def override(recipe: Mapping[str, Any], changes: Mapping[str, Any], *, flag: str) -> dict[str, Any]:
    """A recipe with `{"train.lr": 1e-4}` put in place; sections are made where they are missing.

    Raises:
        BadInput: a path with fewer or more than two parts; whether it exists is checked later.
    """
    out = {key: dict(value) if isinstance(value, dict) else value for key, value in recipe.items()}
    for section, key in _LISTS.items():
        if isinstance(out.get(section), list):
            out[section] = {key: out[section]}
    for path, value in changes.items():
        section, dot, key = path.partition(".")
        if not dot or not key or "." in key or "[" in path:
            raise BadInput(f"{flag} {path}: write SECTION.KEY=VALUE", "e.g. --set train.lr=1e-4")
        inner = out.setdefault(section, {})
        if not isinstance(inner, dict):
            raise BadInput(f"{flag} {path}: '{section}' is no section")
        inner[key] = value
    return out


def build(kind: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """A (nested) dataclass from plain values, every key and type checked.

    Raises:
        BadInput: an unknown key (with the nearest known one), a value of the wrong type, or one
            that the dataclass itself refuses.
    """
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    out: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            raise BadInput(
                f"{where} has no key '{key}'",
                f"did you mean {near[0]}?" if near else f"known: {', '.join(fields)}",
            )
        hint = hints[key]
        path = f"{where}.{key}"
        if dataclasses.is_dataclass(hint):
            if isinstance(value, list) and key in _LISTS:
                value = {_LISTS[key]: value}
            if not isinstance(value, Mapping):
                raise BadInput(f"{path} has to be a section with keys, and is {value!r}")
            out[key] = build(hint, value, where=path)  # type: ignore[arg-type]
        else:
            tokens = fields[key].metadata.get("unit") == "tokens"
            out[key] = _value(hint, value, path, tokens=tokens)
    return kind(**out)


def _value(hint: Any, value: Any, path: str, *, tokens: bool) -> Any:
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in hint.__args__:
            return None
        kinds = [h for h in hint.__args__ if h is not type(None)]
        hint = next((h for h in kinds if type(value) is h), kinds[0])
    if tokens and isinstance(value, str):
        return parse_length(value, flag=path)
    inner: type[Any] = typing.get_args(hint)[0] if typing.get_origin(hint) is tuple else type(None)
    if dataclasses.is_dataclass(inner):
        if not isinstance(value, list) or not all(isinstance(i, Mapping) for i in value):
            raise BadInput(f"{path} has to be a list of sections, and is {value!r}")
        return tuple(build(inner, item, where=f"{path}[{n}]") for n, item in enumerate(value))
    if typing.get_origin(hint) is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
            raise BadInput(f"{path} has to be a list of names, and is {value!r}")
        return tuple(item.strip() for item in items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        raise BadInput(f"{path} has to be {names.get(hint, hint)}, and is {value!r}")
    return value
