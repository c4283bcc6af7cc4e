"""What the demo measures of its checkpoints."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from ctxext.runs.fields import MOST_TOKENS, bounded
from ctxext.runs.rows.perplexity import PositionRow, check_agreement
from ctxext.runs.rows.row import Document, Row, Windows


@dataclass(frozen=True, kw_only=True)
class CopyRow(Row):
    """Share of tokens copied rightly over `samples` rows of `length` tokens, at one distance."""

    model: str
    length: int | None = None
    distance: int = bounded(least=1, most=MOST_TOKENS)
    accuracy: float | None = bounded(least=0, most=1)
    samples: int | None = None


@dataclass(frozen=True, kw_only=True)
class MergedCheck(Row):
    """Largest relative difference of a perplexity, merged against base + adapter."""

    max_relative_difference: float | None = None


@dataclass(frozen=True, kw_only=True)
class DemoResult(Document):
    """`demo.json`: what the demo measured."""

    schema: ClassVar[str] = "ctxext.demo/1"
    output_dir: str | None = None
    window: Windows
    by_position: tuple[PositionRow, ...]
    copying: tuple[CopyRow, ...]
    merged_check: MergedCheck | None = None
    lora_steps: int | None = None
    seconds: float | None = None

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        document = super().from_dict(values)
        check_agreement("by_position", "start", document.by_position)
        return document
