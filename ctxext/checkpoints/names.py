"""Name checkpoints and runs in tables and plots: by what made them, or by the end of a path."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ctxext.checkpoints.opened import Opened
from ctxext.checkpoints.provenance import read_record
from ctxext.runs.recipe.config import FULL, LORA, ROWS


def names_of(models: Sequence[str], opened: Sequence[Opened]) -> list[str]:
    """Name each model so that no two are called alike.

    What ctxext made is called by what was done (`yarn 8x + LoRA`), with the end of its path where
    several were made so; a repository by its id; another folder by the shortest end of its path.
    """
    paths = [
        Path(model).resolve() if Path(model).is_dir() else Path(checkpoint.source.name)
        for model, checkpoint in zip(models, opened, strict=True)
    ]
    made = [made_by(path) if path.is_dir() else None for path in paths]
    often = Counter(made)
    names: list[str] = []
    for path, end, how in zip(paths, shortest_ends(paths), made, strict=True):
        name = end if path.is_dir() else str(path)
        if how is not None:
            name = how if often[how] == 1 else f"{how} ({end})"
        while name in names:
            name += "'"
        names.append(name)
    return names


def made_by(folder: Path) -> str | None:
    """Say how a checkpoint was made, by its record; None where it has none that tells.

    Raises:
        BadInput: the record is broken.
    """
    record = read_record(folder)
    if record is None or not record.method or record.window is None:
        return None
    extended = f"{record.method} {record.window.target / record.window.original:g}x"
    if record.training is None or record.kind == "extend":
        return extended
    recipe = record.training.recipe
    what = str(recipe.train.what or LORA) if recipe is not None else LORA
    words = {LORA: "LoRA", FULL: "full fine-tuning", ROWS: "position rows"}
    return f"{extended} + {words.get(what, what)}"


def shortest_ends(paths: Sequence[Path]) -> list[str]:
    """Give the shortest end of each path that no other path has.

    >>> shortest_ends([Path("runs/a/merged"), Path("runs/b/merged"), Path("runs/base")])
    ['a/merged', 'b/merged', 'base']
    """
    ends = []
    for path in paths:
        others = [other for other in paths if other != path]
        parts = 1
        while parts < len(path.parts) and any(
            other.parts[-parts:] == path.parts[-parts:] for other in others
        ):
            parts += 1
        ends.append("/".join(path.parts[-parts:]))
    return ends
