"""Name checkpoints and runs in tables and plots by as little of a path as tells them apart."""

from collections.abc import Sequence
from pathlib import Path

from ctxext.checkpoints.opened import Opened


def names_of(models: Sequence[str], opened: Sequence[Opened]) -> list[str]:
    """Name each model: a repository by its id, a folder by the shortest end of its path."""
    paths = [
        Path(model).resolve() if Path(model).is_dir() else Path(checkpoint.source.name)
        for model, checkpoint in zip(models, opened, strict=True)
    ]
    names: list[str] = []
    for model, path, end in zip(models, paths, shortest_ends(paths), strict=True):
        name = end if Path(model).is_dir() else str(path)
        while name in names:
            name += "'"
        names.append(name)
    return names


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
