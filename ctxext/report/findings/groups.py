"""Numbers that may stand side by side: groups of rows that were measured alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ctxext.evaluation.retrieval.pooling import pooled
from ctxext.runs.rows.demo import CopyRow
from ctxext.runs.rows.harness import HarnessRow
from ctxext.runs.rows.perplexity import LengthRow, LongPerplexity, PositionRow
from ctxext.runs.rows.record import RunRecord
from ctxext.runs.rows.retrieval import CellRow, EffectiveRow, MiddleRow, RetrievalResult
from ctxext.runs.rows.row import Document, Word, models_of
from ctxext.runs.rows.training import StepRow


@dataclass(frozen=True)
class Run:
    """A run folder as it was read.

    Attributes:
        name: the folder's own name, or the shortest end of its path that tells it from others.
        kind: as in its record, which is its ctxext.json.
        document: its `<kind>.json`, where the kind has one.
        log: the lines of its log.jsonl.
        notes: what was wrong with its files.
    """

    name: str
    kind: str
    record: RunRecord
    document: Document | None = None
    log: Sequence[StepRow] = ()
    notes: Sequence[str] = ()


@dataclass
class PerplexityGroup:
    """Perplexities that may be compared: the same text, protocol and stride.

    Attributes:
        about: what they were measured on, a phrase.
        window, target: trained and extended to, tokens; marked in the curves.
        key_tokens: LongPPL.
        text: that was read, for titles.
    """

    about: str
    window: int | None
    target: int | None = None
    results: list[LengthRow] = field(default_factory=list)
    by_position: list[PositionRow] = field(default_factory=list)
    key_tokens: list[LongPerplexity] = field(default_factory=list)
    text: str = ""

    @property
    def models(self) -> list[str]:
        return models_of([*self.results, *self.by_position])


@dataclass(frozen=True)
class Score:
    """A share of right answers of a model at one length, over all depths.

    `low`, `high`: its 95 % interval; of a forced choice also the `chance` and the mean gain in nats
    per token. `answers`: the score of each question, where it is known; `questions`: which these
    are, by hashes.
    """

    model: str
    task: str
    length: int
    accuracy: float | None
    low: float | None
    high: float | None
    chance: float | None = None
    gain: float | None = None
    answers: tuple[float, ...] = ()
    questions: tuple[str | None, ...] = ()

    @property
    def place(self) -> tuple[str, int]:
        return self.task, self.length


def haystack_name(document: RetrievalResult) -> str:
    """Name the text that needles were hidden in; nothing where the document does not."""
    source = document.data.source if document.data else None
    return "RULER's noise" if source == "noise" else source or ""


@dataclass
class RetrievalGroup:
    """Retrieval scores that may be compared: the same text, way to score, seed and samples.

    Attributes:
        threshold: as asked for: a share, or `own:0.85`, that share of a model's own accuracy in
            its window.
        text: that needles were hidden in, for titles.
    """

    about: str
    window: int | None
    threshold: Word = None
    target: int | None = None
    results: list[CellRow] = field(default_factory=list)
    effective: list[EffectiveRow] = field(default_factory=list)
    middle: list[MiddleRow] = field(default_factory=list)
    text: str = ""

    @classmethod
    def of(cls, document: RetrievalResult, about: str = "") -> "RetrievalGroup":
        """Take all of a document."""
        return cls(
            about, document.window, document.threshold, results=[*document.results],
            effective=[*document.effective], middle=[*document.middle],
            text=haystack_name(document),
        )  # fmt: skip

    @property
    def models(self) -> list[str]:
        return models_of(self.effective or self.results)

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(row.task for row in self.effective or self.results))

    @property
    def by_length(self) -> list[Score]:
        """Exact answers by length."""
        cells = self._cells
        return [
            Score(
                row.model, row.task, pool.length, pool.accuracy, pool.low, pool.high,
                **_asked(cells.get((row.model, row.task, pool.length), []), "answers"),
            )
            for row in self.effective
            for pool in row.by_length
        ]  # fmt: skip

    @property
    def by_choice(self) -> list[Score]:
        """Forced choice by length; none where it was not asked."""
        return [
            Score(
                model, task, length, pool.choice, pool.choice_low, pool.choice_high, pool.chance,
                pool.gain, **_asked(rows, "choices"),
            )
            for (model, task, length), rows in self._cells.items()
            if (pool := pooled(rows)).choice is not None
        ]  # fmt: skip

    @property
    def _cells(self) -> dict[tuple[str, str, int], list[CellRow]]:
        """The cells of each model, task and length that have samples."""
        cells: dict[tuple[str, str, int], list[CellRow]] = {}
        for row in self.results:
            if row.samples:
                cells.setdefault((row.model, row.task, row.length), []).append(row)
        return cells

    @property
    def unsolved(self) -> list[str]:
        """Tasks that no model solves at any length: they tell nothing about windows."""
        return self._without([row for row in self.effective if _holds(row)])

    @property
    def unanswered(self) -> list[str]:
        """Tasks whose exact answers no model gives at any length; some may tell by choice."""
        answered = [row for row in self.effective if _holds(row) and row.metric == "accuracy"]
        return self._without(answered)

    def _without(self, rows: Sequence[EffectiveRow]) -> list[str]:
        known = {row.task for row in rows}
        return [task for task in self.tasks if task not in known]


def _holds(row: EffectiveRow) -> bool:
    return bool(row.effective_length or row.perhaps_length)


def _asked(cells: Sequence[CellRow], what: str) -> dict[str, Any]:
    """Give the questions of all depths with their scores; nothing where one is not known."""
    cells = sorted(cells, key=lambda cell: cell.depth)
    scores = [getattr(cell, what) for cell in cells]
    questions = tuple(cell.questions for cell in cells)
    if not cells or None in questions or None in scores:
        return {}
    return {"answers": tuple(s for each in scores for s in each), "questions": questions}


@dataclass(frozen=True)
class CopyingGroup:
    """The demo's own measure of use: a planted string copied from so many tokens back."""

    about: str
    window: int
    results: Sequence[CopyRow]


@dataclass(frozen=True)
class ModelScore:
    """A score of a model in a task of lm-evaluation-harness."""

    model: str
    row: HarnessRow

    @property
    def place(self) -> tuple[Any, ...]:
        return self.row.place


@dataclass(frozen=True)
class HarnessGroup:
    """Scores of lm-evaluation-harness tasks, and the harness's version of each model."""

    scores: Sequence[ModelScore]
    versions: Mapping[str, str]

    @property
    def models(self) -> list[str]:
        return models_of(self.scores)
