"""What all rows share: the way to JSON and back, and who was measured."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, Self

from ctxext.runs.build import from_document
from ctxext.runs.fields import MOST_TOKENS, bounded, only_with

Word = str | int | float | bool | None
"""A setting as it was typed or as a library says it."""
SHA256 = "[0-9a-f]{64}"


class Row:
    """A dataclass of what was measured or recorded, whose fields are the keys of a JSON object."""

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON object; a field that is written with another is left out without it."""
        out = {}
        for each in fields(self):  # type: ignore[arg-type]
            partner = each.metadata.get("only_with")
            if not partner or getattr(self, partner) is not None:
                out[each.name] = _plain(getattr(self, each.name))
        return out

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Read an object of a document, every value checked; keys that nobody knows are left out.

        Raises:
            Broken: the place of a wrong value, and what stands there.
        """
        return from_document(cls, values)


def _plain(value: Any) -> Any:
    if isinstance(value, Row):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


class Placed(Protocol):
    """A row of a model, with what all models are measured at: a length, positions, a task."""

    @property
    def model(self) -> str: ...
    @property
    def place(self) -> tuple[Any, ...]: ...


def models_of(rows: Iterable[Any]) -> list[str]:
    """Name the models of rows, in order of appearance."""
    return list(dict.fromkeys(row.model for row in rows))


@dataclass(frozen=True)
class Identity(Row):
    """Which checkpoint was measured, by hashes.

    Attributes:
        config_sha256, record_sha256: of its config.json and its ctxext.json.
        rope_sha256: of its rope.
        weights_sha256: of a sample of its weights.
    """

    config_sha256: str | None = bounded(None, matches=SHA256)
    record_sha256: str | None = bounded(None, matches=SHA256)
    rope_sha256: str | None = bounded(None, matches=SHA256)
    weights_sha256: str | None = only_with("weights_sha256", matches=SHA256)

    @classmethod
    def of(cls, row: Any) -> "Identity":
        """Take the hashes that a row carries."""
        return cls(*(getattr(row, each.name) for each in fields(cls)))

    @property
    def is_certain(self) -> bool:
        """Whether no other checkpoint has these hashes: its record's or its weights' is known."""
        return None not in (self.config_sha256, self.record_sha256 or self.weights_sha256)

    def same_files(self, other: "Identity") -> bool:
        """Tell whether config and record are the same, and the weights as far as both know them."""
        weights = {self.weights_sha256, other.weights_sha256} - {None}
        return len(weights) < 2 and (self.config_sha256, self.record_sha256) == (
            other.config_sha256, other.record_sha256
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Windows(Row):
    """Windows in tokens: what the base was trained at, and what it was extended to."""

    original: int = bounded(least=1, most=MOST_TOKENS)
    target: int = bounded(least=1, most=MOST_TOKENS)


@dataclass(frozen=True, kw_only=True)
class Failed(Row):
    """What could not be measured, and why.

    `reads_at_most`: how many tokens the model has positions for, where that is the reason: another
    try would change nothing.
    """

    model: str
    task: str | None = only_with("task")
    length: int | None = None
    error: str = ""
    reads_at_most: int | None = only_with("reads_at_most", least=1, most=MOST_TOKENS)


@dataclass(frozen=True, kw_only=True)
class Document(Row):
    """What a command gives back; `to_dict` is its JSON document."""

    schema: ClassVar[str]

    @property
    def failed(self) -> tuple[Failed, ...]:
        """What could not be measured; most kinds stop at the first failure."""
        return ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the run warned of."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        return {"schema": self.schema, **super().to_dict()}
