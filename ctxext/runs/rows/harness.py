"""Scores of lm-evaluation-harness."""

from dataclasses import dataclass
from typing import ClassVar

from ctxext.runs.fields import MOST_TOKENS, bounded, only_with
from ctxext.runs.rows.row import Document, Identity, Row, Word


@dataclass(frozen=True, kw_only=True)
class HarnessRow(Row):
    """A task, metric and filter of the harness; its words are the harness's own.

    `samples`: documents read; `cut`: those that lost their beginning, being longer than the window.
    """

    task: str
    version: Word = None
    n_shot: Word = None
    metric: str
    filter: str | None = None
    value: float | None
    stderr: float | None = bounded(least=0)
    samples: int | None = None
    cut: int = 0

    @property
    def place(self) -> tuple[Word, ...]:
        return self.task, self.metric, self.filter, self.n_shot


@dataclass(frozen=True, kw_only=True)
class HarnessResult(Document):
    """Scores of one checkpoint, as `eval-harness.json` has them.

    `tasks` has a row for each task, metric and filter; `cut` in it counts the documents that lost
    their beginning because they are longer than `window`.
    """

    schema: ClassVar[str] = "ctxext.eval-harness/1"
    model: str
    window: int | None = bounded(None, least=1, most=MOST_TOKENS)
    original_window: int | None = bounded(None, least=1, most=MOST_TOKENS)
    harness_version: str | None = None
    tasks: tuple[HarnessRow, ...]
    lengths: tuple[int, ...] = ()
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: int | None = None
    seeds: tuple[int, ...] = ()
    checkpoint: Identity | None = only_with("checkpoint")
    tokenizer: str | None = None
    warnings: tuple[str, ...] = ()
    output_dir: str | None = None
