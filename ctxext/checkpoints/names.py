"""What tables and plots call the checkpoints of a command."""

from collections.abc import Sequence
from pathlib import Path

from ctxext.checkpoints.opened import Opened


def names_of(models: Sequence[str], opened: Sequence[Opened]) -> list[str]:
    """What the table calls each model: the shortest end of its path that is its own."""
    paths = [
        Path(model).resolve() if Path(model).is_dir() else Path(one.source.name)
        for model, one in zip(models, opened, strict=True)
    ]
    names: list[str] = []
    for index, path in enumerate(paths):
        others = [p for i, p in enumerate(paths) if i != index and p != path]
        parts = next(
            (n for n in range(1, 5) if all(p.parts[-n:] != path.parts[-n:] for p in others)), 5
        )
        name = "/".join(path.parts[-parts:]) if Path(models[index]).is_dir() else str(path)
        while name in names:
            name += "'"
        names.append(name)
    return names
