"""Retrieval: cells of length x depth, how far a task is solved, and whether the middle is lost."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from ctxext.runs.checked import Broken
from ctxext.runs.fields import MOST_TOKENS, bounded, only_with
from ctxext.runs.rows.row import SHA256, Document, Failed, Row, Word

Score = Literal["logprob", "generate"]
"""How an answer is judged: by its log-probability, or by what the model writes."""


def _share(**default: Any) -> Any:
    return bounded(least=0, most=1, **default)


@dataclass(frozen=True, kw_only=True)
class CellRow(Row):
    """All samples of a task at one length and depth (0 = the start of the text).

    Attributes:
        accuracy: share of answers that are right; `low`, `high`: its 95 % interval (Wilson).
        choice: share of questions whose answer is told from distractors, against `chance`.
        gain: nats per token that the needle is worth, with its standard error.
        questions: what was asked, by a hash: rows with the same one can be paired.
        answers, choices: the scores of each sample behind `accuracy` and `choice`.
    """

    model: str
    task: str
    length: int = bounded(least=1, most=MOST_TOKENS)
    depth: float = _share()
    accuracy: float | None = _share()
    low: float | None = _share()
    high: float | None = _share()
    samples: int | None = bounded(least=1, most=MOST_TOKENS)
    choice: float | None = _share(default=None)
    choice_low: float | None = _share(default=None)
    choice_high: float | None = _share(default=None)
    chance: float | None = _share(default=None)
    gain: float | None = None
    gain_stderr: float | None = None
    config_sha256: str | None = bounded(None, matches=SHA256)
    record_sha256: str | None = bounded(None, matches=SHA256)
    rope_sha256: str | None = bounded(None, matches=SHA256)
    weights_sha256: str | None = only_with("weights_sha256", matches=SHA256)
    questions: str | None = only_with("questions", matches=SHA256)
    answers: tuple[float, ...] | None = only_with("answers", least=0, most=1)
    choices: tuple[float, ...] | None = only_with("choices", least=0, most=1)

    @property
    def place(self) -> tuple[str, int, float]:
        return self.task, self.length, self.depth


@dataclass(frozen=True, kw_only=True)
class PooledRow(Row):
    """The cells of one model, task and length over all their depths; fields as in `CellRow`."""

    length: int = bounded(least=1, most=MOST_TOKENS)
    accuracy: float | None = _share()
    low: float | None = _share()
    high: float | None = _share()
    samples: int | None = None
    choice: float | None = _share(default=None)
    choice_low: float | None = _share(default=None)
    choice_high: float | None = _share(default=None)
    chance: float | None = _share(default=None)
    gain: float | None = None
    gain_stderr: float | None = None


@dataclass(frozen=True, kw_only=True)
class OwnScore(Row):
    """A model's accuracy at the longest measured length inside its window."""

    length: int = bounded(least=1, most=MOST_TOKENS)
    accuracy: float | None = _share()


@dataclass(frozen=True, kw_only=True)
class EffectiveRow(Row):
    """Up to which length a model solves a task.

    Attributes:
        effective_length: tokens to which it surely does; None: nowhere.
        perhaps_length: tokens to which it may; None: nowhere, or not known (older documents).
        metric: `accuracy`, or `choice` where exact answers are beyond the model.
        threshold: the share that was needed; None: the model has no score to keep anything of.
        own: what a relative threshold is a share of; None: not measured inside the window.
    """

    model: str
    task: str
    effective_length: int | None = bounded(least=1, most=MOST_TOKENS)
    perhaps_length: int | None = bounded(None, least=1, most=MOST_TOKENS)
    metric: str = "accuracy"
    threshold: float | None = None
    own: OwnScore | None = None
    by_length: tuple[PooledRow, ...]


@dataclass(frozen=True, kw_only=True)
class MiddleRow(Row):
    """Accuracy in the middle third of depths against that at the worse end.

    `difference` = middle - ends, with its 95 % interval; `lost` when it is below 0 beyond noise.
    """

    model: str
    task: str
    length: int = bounded(least=1, most=MOST_TOKENS)
    middle: float | None = _share()
    ends: float | None = _share()
    difference: float | None
    low: float | None
    high: float | None
    lost: bool = False


@dataclass(frozen=True, kw_only=True)
class HaystackText(Row):
    """The text that needles were hidden in."""

    source: str | None = None
    sha256: str | None = bounded(None, matches=SHA256)


@dataclass(frozen=True, kw_only=True)
class RetrievalResult(Document):
    """Answers of several models, as `eval-retrieval.json` has them.

    `results` has a row for each model, task, length and depth, `effective` one for each model and
    task, `middle` one for each model, task and length, `failed` what could not be measured.
    """

    schema: ClassVar[str] = "ctxext.eval-retrieval/1"
    data: HaystackText | None = None
    score: str | None = None
    seed: Word = None
    samples: int | None = bounded(None, least=1, most=MOST_TOKENS)
    threshold: Word = None
    tasks: tuple[str, ...] = ()
    wordings: Mapping[str, str] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    depths: tuple[float, ...] = ()
    window: int | None = bounded(None, least=1, most=MOST_TOKENS)
    results: tuple[CellRow, ...]
    effective: tuple[EffectiveRow, ...]
    middle: tuple[MiddleRow, ...] = ()
    failed: tuple[Failed, ...] = ()
    tokenizer: str | None = None
    output_dir: str | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        document = super().from_dict(values)
        answered: dict[tuple[str, str], set[int]] = {}
        for row in document.results:
            answered.setdefault((row.model, row.task), set()).add(row.length)
        for reach in document.effective:
            lengths = [each.length for each in reach.by_length]
            _check_answered("effective", reach, lengths, answered)
        for middle in document.middle:
            _check_answered("middle", middle, [middle.length], answered)
        return document


def _check_answered(
    key: str,
    row: EffectiveRow | MiddleRow,
    lengths: Sequence[int],
    answered: Mapping[tuple[str, str], Collection[int]],
) -> None:
    """Check that the answers that a row sums up are there.

    Raises:
        Broken: they are not.
    """
    known = answered.get((row.model, row.task))
    if known is None:
        raise Broken(f"{key}: {row.model} has no results for the task {row.task}")
    if missing := [length for length in lengths if length not in known]:
        raise Broken(f"{key}: {row.model} has no results for {row.task} at length {missing[0]}")
