"""What texts cost a tokenizer."""

from dataclasses import dataclass
from typing import ClassVar

from ctxext.runs.fields import MOST_TOKENS, bounded
from ctxext.runs.rows.row import Document, Row


@dataclass(frozen=True, kw_only=True)
class FertilityRow(Row):
    """One text: what it costs, and how much of it the window holds.

    Attributes:
        text: the file's name; `language`: its name up to the first dot.
        words: None where the script puts no spaces between them.
        unknown: tokens that stand for text the tokenizer does not know, and loses.
        against_reference: tokens, times those of the reference.
    """

    text: str | None = None
    language: str
    characters: int | None = None
    bytes: int | None = None
    words: int | None
    tokens: int = bounded(least=1, most=MOST_TOKENS)
    unknown: int | None = None
    tokens_per_character: float | None = bounded(above=0)
    tokens_per_byte: float | None = bounded(above=0)
    tokens_per_word: float | None = bounded(above=0)
    against_reference: float | None = bounded(above=0)
    window_characters: int = bounded(least=0, most=MOST_TOKENS)


@dataclass(frozen=True, kw_only=True)
class FertilityResult(Document):
    """`fertility.json`: the texts in one tokenizer."""

    schema: ClassVar[str] = "ctxext.fertility/1"
    model: str
    reference: str | None = None
    window: int = bounded(least=1, most=MOST_TOKENS)
    results: tuple[FertilityRow, ...]
    tokenizer: str | None = None
    output_dir: str | None = None
    warnings: tuple[str, ...] = ()
