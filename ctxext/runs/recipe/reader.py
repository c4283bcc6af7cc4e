"""Read recipes, YAML files that fix a run, with distrust, and check them key by key."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ctxext.choices import suggestion
from ctxext.errors import BadInput, about_its_path, shown
from ctxext.runs.build import as_section

_MAX_BYTES = 1024 * 1024

ALTERNATIVES = {
    "data.source": "sources",
    "data.sources": "source",
    "extend.target": "factor",
    "extend.factor": "target",
}
"""Keys that say the same in two ways: who sets one means it in place of the other."""


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases (a few lines of them can fill any memory), tags and doubles."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        refused = "aliases (*name)" if isinstance(event, yaml.AliasEvent) else None
        # A tag makes something else of a value: an object, or no number of what is none.
        if (tag := getattr(event, "tag", None)) is not None:
            refused = f"tags ({shown(tag)})"
        if refused:
            raise yaml.composer.ComposerError(
                None, None, f"{refused} are not allowed in a recipe", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key)} is not text (quote it)", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {shown(key)} stands twice", key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


# YAML 1.1 reads 010 as 8, 1:30 as 90 and 1e-4, which has no dot, as text. Everybody means decimal
# numbers; any other way to write one is left a word, which is refused where a number has to be.
_NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(0|[1-9][0-9]*)",
    "tag:yaml.org,2002:float": (
        r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
    ),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, words) for tag, words in known if tag not in _NUMBERS]
    for first, known in _Loader.yaml_implicit_resolvers.items()
}
for _tag, _written in _NUMBERS.items():  # whole numbers first: a float may have no dot here
    _Loader.add_implicit_resolver(_tag, re.compile(f"^({_written})$"), list("-+.0123456789"))


@about_its_path
def read_recipe(path: Path, *, called: str = "--recipe ") -> dict[str, Any]:
    """Read a recipe file into nested plain values.

    Args:
        called: what messages put before its path.

    Raises:
        BadInput: missing, not YAML, aliases, tags, doubled keys, not a mapping; with the line.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise BadInput(f"{called}{path} is not a regular file")
        if path.stat().st_size > _MAX_BYTES:
            raise BadInput(f"{called}{path} is larger than 1 MiB, which no recipe is")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"{called}{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{called}{path} is not UTF-8 text") from error
    value = read_yaml(text, f"{called}{path}")
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadInput(f"{called}{path} holds no sections")
    return value


def read_yaml(text: str, where: str) -> Any:
    """Read YAML into plain values: no aliases, tags or doubled keys, and 1e-4 is a number.

    Raises:
        BadInput: anything else; `where` and the line are named.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        words = " ".join(str(error.problem or error.context).split())
        raise BadInput(f"{where}{line}: {words[:200]}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # 2020-13-45 is no day
        words = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{where} is not YAML: {words[:200]}") from error


def find_recipe(given: str) -> Path:
    """Find the file of `--recipe`: a path, or the name of a recipe that comes with ctxext.

    Raises:
        BadInput: it looks like a name, and is none.
    """
    path = Path(given)
    # By its ending, not by having one: qwen2.5-7b is a name.
    named = path.name == given and path.suffix not in (".yaml", ".yml") and not path.exists()
    return shipped_recipe(given) if named else path


def shipped_recipe(name: str) -> Path:
    """Find the file of a recipe that comes with ctxext, by its name without `.yaml`.

    Raises:
        BadInput: there is no such recipe; the nearest is offered.
    """
    package = Path(__file__).parents[2]
    # In a wheel the recipes lie inside the package, in a checkout beside it.
    folders = [f for f in (package / "recipes", package.parent / "recipes") if f.is_dir()]
    known = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}
    if name not in known:
        raise BadInput(f"there is no recipe {shown(name)}", suggestion(name, known))
    return known[name]


def override(
    recipe: Mapping[str, Any], changes: Mapping[str, Any], *, flag: str, begun: bool = False
) -> dict[str, Any]:
    """Put `{"train.lr": 1e-4}` into a copy of a recipe; sections that are missing are made.

    Args:
        begun: the recipe is that of a run, whose stages say every key, also those that came from
            the sections above them: each stage gets the change.

    Raises:
        BadInput: a path with fewer or more than two parts, or into the stages of a recipe, or to a
            key that a stage sets by itself; whether it exists is checked later.
    """
    out = {key: as_section(key, value) for key, value in recipe.items()}
    out = {key: dict(value) if isinstance(value, dict) else value for key, value in out.items()}
    for path, value in changes.items():
        section, dot, key = path.partition(".")
        if re.match(r"stages\b", section):
            raise BadInput(
                f"{flag} {path}: nothing reaches into the stages of a recipe",
                "write it in the recipe, or set SECTION.KEY for all stages that do not say it",
            )
        if not dot or not key or "." in key or "[" in path:
            raise BadInput(f"{flag} {path}: write SECTION.KEY=VALUE", "e.g. --set train.lr=1e-4")
        inner = out.get(section)
        if inner is None:  # missing, or `extend:` without keys
            inner = out[section] = {}
        if not isinstance(inner, dict):
            raise BadInput(f"{flag} {path}: '{section}' is no section")
        twice = _set_in_a_stage(recipe.get("stages"), section, key)
        if twice and not begun:
            raise BadInput(
                f"{flag} {path} is for all stages of the recipe, and {twice} is set in it",
                "change it in the recipe, or leave it out there",
            )
        other = ALTERNATIVES.get(path)
        if not value or f"{section}.{other}" in changes:
            other = None
        inner.pop(other, None)
        inner[key] = value
        if twice:
            out["stages"] = [
                _in_stage(stage, section, key, value, other) for stage in out["stages"]
            ]
    return out


def _in_stage(stage: Any, section: str, key: str, value: Any, other: str | None) -> Any:
    """Set a key of a stage's section, in place of `other`; a stage without the section has it."""
    keys = as_section(section, stage.get(section)) if isinstance(stage, dict) else None
    if not isinstance(keys, dict):
        return stage
    kept = {name: old for name, old in keys.items() if name != other}
    return {**stage, section: {**kept, key: value}}


def _set_in_a_stage(stages: Any, section: str, key: str) -> str | None:
    """Find the first stage that sets a key, or its alternative, as `stages[0].train.lr`."""
    for number, stage in enumerate(stages if isinstance(stages, list) else []):
        keys = as_section(section, stage.get(section)) if isinstance(stage, dict) else None
        for name in (key, ALTERNATIVES.get(f"{section}.{key}")):
            if isinstance(keys, dict) and name in keys:
                return f"stages[{number}].{section}.{name}"
    return None
