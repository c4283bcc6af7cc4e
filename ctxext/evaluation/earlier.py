"""What an output folder has already: rows of models that need not be measured again.

A row is taken over only where all that it depends on is known to be the same: the settings of the
command, which are compared by name, and each checkpoint's state (its files, its text as tokens),
which `ctxext.json` keeps as a hash beside the settings.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from ctxext.checkpoints.opened import Opened
from ctxext.errors import BadInput, shown
from ctxext.lengths import counted
from ctxext.runs.fields import bounded
from ctxext.runs.rows.row import SHA256, Document, Identity, Row, models_of

D = TypeVar("D", bound=Document)
R = TypeVar("R", bound=Any)
Settings = Mapping[str, str | int | float | bool | None]
"""A flag (`--stride`) -> its value, for all flags that every row depends on."""


@dataclass(frozen=True, kw_only=True)
class State(Row):
    """What the rows of one model depend on beside the settings, as a hash."""

    model: str
    sha256: str = bounded(matches=SHA256)


@dataclass(frozen=True, kw_only=True)
class MeasuredBy(Row):
    """What `ctxext.json` keeps of an evaluation, so that another one can go on with its rows."""

    settings: Mapping[str, str | int | float | bool | None]
    models: tuple[State, ...]

    @classmethod
    def of(cls, settings: Settings, states: Mapping[str, str]) -> "MeasuredBy":
        """Note settings, and the state of each model by its name."""
        models = tuple(State(model=name, sha256=state) for name, state in states.items())
        return cls(settings=settings, models=models)

    @property
    def states(self) -> dict[str, str]:
        return {each.model: each.sha256 for each in self.models}


def state_of(*parts: object) -> str:
    """Hash what a model's rows depend on."""
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


@dataclass(frozen=True)
class Earlier(Generic[D]):
    """A document that an output folder has, and what its rows depend on."""

    folder: Path
    document: D
    measured_by: MeasuredBy

    def check(self, settings: Settings) -> None:
        """Refuse settings that are not those of the rows that are there.

        Raises:
            BadInput: the first flag that differs.
        """
        theirs = self.measured_by.settings
        for flag, value in settings.items():
            if theirs.get(flag) != value:
                raise BadInput(
                    f"{flag} is {_said(value)} now, and was {_said(theirs.get(flag))} for what "
                    f"{self.folder} has",
                    "give it the same, or another --output-dir; --overwrite measures all again "
                    "and drops what is there",
                )

    def match(
        self,
        rows: Sequence[Any],
        names: Sequence[str],
        checkpoints: Sequence[Opened],
        states: Mapping[str, str],
    ) -> "Kept":
        """Find which models of the folder are those of this command.

        Args:
            rows: of the document, each with its model's name and hashes.
            names, checkpoints: of this command.
            states: of this command's models, by their names.

        Raises:
            BadInput: a name that means another checkpoint there.
        """
        theirs = self.measured_by.states
        hashes = {row.model: Identity.of(row) for row in rows}
        kept = Kept(self.folder, list(models_of(rows)))
        for name, checkpoint in zip(names, checkpoints, strict=True):
            free = [old for old in kept.models if old not in (*kept.renamed, *kept.dropped)]
            same = [old for old in free if theirs.get(old) == states[name]]
            alike = [old for old in free if _alike(hashes[old], checkpoint.identity)]
            if same:
                kept.renamed[same[0]] = name
            elif alike:
                kept.dropped[alike[0]] = name
            elif name in free:
                raise self._taken(name)
        for name in names:
            if name in kept.others:
                raise self._taken(name)
        return kept

    def _taken(self, name: str) -> BadInput:
        return BadInput(
            f"{self.folder} has numbers of another checkpoint that is called {name}",
            "--names gives this one another name; --overwrite measures all again and drops what "
            "is there",
        )


@dataclass
class Kept:
    """Which models of a folder this command measures too.

    Attributes:
        models: all of the folder, by their names there.
        renamed: those whose rows are taken over -> their names in this command.
        dropped: those that have to be measured again -> their names in this command.
    """

    folder: Path
    models: list[str]
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def others(self) -> list[str]:
        """Models that this command does not name; their rows stay as they are."""
        return [name for name in self.models if name not in (*self.renamed, *self.dropped)]

    def rows(self, rows: Iterable[R]) -> list[R]:
        """Give the rows that are taken over, under the names of this command."""
        return [
            replace(row, model=self.renamed.get(row.model, row.model))
            for row in rows
            if row.model not in self.dropped
        ]

    def in_order(self, names: Sequence[str]) -> list[str]:
        """List all models: those of the folder as they stand there, then the new ones."""
        now = {**self.renamed, **self.dropped}
        return list(dict.fromkeys([*(now.get(name, name) for name in self.models), *names]))

    def warnings(self, document: Document) -> list[str]:
        """List what was said of models that this command does not name."""
        others = tuple(f"{name}: " for name in self.others)
        return [text for text in document.warnings if text.startswith(others)]

    def said(self, rows: int) -> str:
        """Say, behind what will be measured, what of it is there already."""
        text = f"; {counted(rows, 'number')} of {self.folder} are taken from there"
        again = ", ".join(self.dropped.values())
        return f"{text}, and {again} again: its files or text have changed" if again else text

    def check_complete(self, places: Iterable[Any], known: Iterable[tuple[str, Any]]) -> None:
        """Refuse to add what models that are not named have not been measured at.

        Args:
            places: all that is to be measured, each of which can be shown.
            known: (model, place) that the folder has, or failed at.

        Raises:
            BadInput: naming a model and a place.
        """
        there = set(known)
        for name in self.others:
            missing = [place for place in places if (name, place) not in there]
            if missing:
                raise BadInput(
                    f"{self.folder} has {name} too, which is not measured at {missing[0]}",
                    f"name the checkpoint of {name} in this command as well, or choose another "
                    "--output-dir",
                )


def _alike(theirs: Identity, ours: Identity) -> bool:
    """Tell whether it is the same checkpoint by its hashes, so that new rows replace the old."""
    return theirs.is_certain and ours.is_certain and theirs.same_files(ours)


def _said(value: object) -> str:
    return "not given" if value in (None, False) else "given" if value is True else shown(value)
