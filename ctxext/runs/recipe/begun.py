"""Write and read OUT/recipe.yaml: a run's recipe, its model, and how that was loaded.

It stays on this machine, and so names paths as they were typed; what is published is the recipe in
ctxext.json, which does not.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ctxext.errors import BadInput, CtxextError, shown
from ctxext.runs.build import as_section, build
from ctxext.runs.output import write_file
from ctxext.runs.recipe.reader import read_recipe

RECIPE = "recipe.yaml"
_OTHERS = ("eval",)  # a section that other commands read


@dataclass(frozen=True)
class LoadingConfig:
    """The section `loading`: how the model is loaded and the result stored; empty = as by default.

    Attributes:
        revision: of a Hub repository.
        tokenizer: folder or repository whose tokenizer reads the data.
        dtype: of the computation.
        merge_dtype: of the merged checkpoint.
        report_to: a tracker.
    """

    revision: str = ""
    tokenizer: str = ""
    dtype: str = ""
    merge_dtype: str = ""
    report_to: str = ""


@dataclass(frozen=True)
class RunModel:
    """The model of a run as typed, and what `LoadingConfig` holds; None and `auto` say nothing."""

    model: str | None
    revision: str | None = None
    tokenizer: str | None = None
    dtype: str = "auto"
    merge_dtype: str = "auto"
    report_to: str | None = None

    def over(self, model: Any, loading: LoadingConfig) -> "RunModel":
        """Lay what a call said over what its recipe says."""
        words = {
            name: word
            for name, word in asdict(loading).items()
            if word and getattr(self, name) in (None, "auto")
        }
        return replace(self, model=self.model if self.model is not None else model, **words)

    def section(self) -> dict[str, str]:
        """Give the section `loading` that says the same."""
        named = ((field.name, getattr(self, field.name)) for field in fields(LoadingConfig))
        return {name: word for name, word in named if word not in (None, "auto")}


def settle(said: RunModel, recipe: Any, begun: Path | None = None) -> tuple[RunModel, Any]:
    """Take model and section `loading` out of a recipe, and lay over them what the call said.

    Args:
        recipe: as `finetune` takes it; None = that of the run in the folder `begun`.
        begun: folder of the run that is gone on with: what nobody says now is as it was said then.

    Returns:
        What counts, and the rest of the recipe.

    Raises:
        BadInput: no recipe or no model at all, a wrong section, no run in `begun`.
    """
    if recipe is None:
        if begun is None:
            raise BadInput(
                "recipe is missing", "e.g. recipe={'data': {'source': 'book.txt'}}",
                argument="recipe",
            )  # fmt: skip
        recipe = read_begun(begun)
    if isinstance(recipe, Mapping):
        loading, model, recipe = _split(recipe)
        if said.model is None and model is not None and not isinstance(model, str):
            raise BadInput(f"recipe.model has to be text, and is {shown(model)}")
        said = said.over(model, loading)
    if begun is not None and (begun / RECIPE).exists():
        loading, model, _ = _split(read_begun(begun))
        said = said.over(model, loading)
    if said.model is None and begun is not None:
        raise BadInput(
            f"--resume: {begun / RECIPE} does not name the MODEL that is trained",
            f"name it: ctxext finetune MODEL --resume -o {shlex.quote(str(begun))}",
            argument="model",
        )
    if said.model is None:
        raise BadInput(
            "MODEL is missing", "name a checkpoint, or a recipe that names one", argument="model"
        )
    return said, recipe


def _split(values: Mapping[str, Any]) -> tuple[LoadingConfig, Any, dict[str, Any]]:
    """Split a recipe file's values into section `loading`, model, and what `finetune` reads.

    The model is looked at where it is needed: another command's recipe may say more of it.
    """
    section = as_section("loading", values.get("loading") or {})
    if not isinstance(section, Mapping):
        raise BadInput(f"recipe.loading has to be a section with keys, and is {shown(section)}")
    kept = {k: v for k, v in values.items() if k not in ("model", "loading", *_OTHERS)}
    return build(LoadingConfig, section, where="recipe.loading"), values.get("model"), kept


def write_begun(out: Path, model: RunModel, recipe: Mapping[str, Any]) -> None:
    """Write OUT/recipe.yaml, from which the run can be repeated, or gone on with."""
    head = (
        "# The recipe of this run, with every default filled in; to repeat the run:\n"
        "#   ctxext finetune --recipe recipe.yaml --output-dir NEW\n"
    )
    if "stages" in recipe:
        head += "# Each stage says all of its own; the sections above them are those of the last.\n"
    loading = {"loading": section} if (section := model.section()) else {}
    whole = {"model": model.model, **loading, **recipe}
    write_file(out / RECIPE, head + yaml.safe_dump(whole, sort_keys=False))


def read_begun(out: Path) -> dict[str, Any]:
    """Read OUT/recipe.yaml of a run that is gone on with.

    Raises:
        BadInput: there is none, or it is no recipe.
    """
    if not (out / RECIPE).exists():
        raise BadInput(
            f"--resume: {out} has no {RECIPE}, so there is no run to go on with",
            "look at --output-dir, or name model and data to begin one",
        )
    return read_recipe(out / RECIPE, called="")


def check_same_dtype(out: Path, now: RunModel) -> None:
    """Check that a run is gone on with in the dtype in which it was begun.

    Raises:
        BadInput: it is not.
    """
    if not (out / RECIPE).exists():
        return
    loading, model, _ = _split(read_begun(out))
    if model is None and not loading.dtype:  # of a version that wrote down neither
        return
    before = loading.dtype or "auto"
    if now.dtype != before:
        raise BadInput(
            f"--resume with another --dtype: {before} -> {now.dtype}",
            "leave it out, or start a new run",
        )


@contextmanager
def named_by_run(out: Path, flag: str, path: str | None) -> Iterator[None]:
    """Say of a path that is gone, in a run that is gone on with, where it comes from.

    Args:
        flag: with which to say where it lies now.
        path: as the run's recipe names it; None = it does not come from there.
    """
    try:
        yield
    except CtxextError as error:
        if path is not None and not os.path.exists(os.path.expanduser(path)):  # noqa: PTH110, PTH111
            error.hint = (
                f"{out / RECIPE} names it as typed when the run began: go on in the same folder, "
                f"or say where it lies now with {flag}"
            )
        raise
