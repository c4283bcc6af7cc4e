"""Where a training run stands, and the lines of its log."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ctxext.runs.fields import MOST_TOKENS, bounded, only_with
from ctxext.runs.rows.row import SHA256, Row


@dataclass(frozen=True, kw_only=True)
class PositionLoss(Row):
    """Mean loss, nats per token, of tokens at positions [start, end) of validation rows.

    None = not finite.
    """

    start: int = bounded(least=0, most=MOST_TOKENS)
    end: int = bounded(least=1, most=MOST_TOKENS)
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class Validation(Row):
    """One measurement on rows that are not trained on.

    Attributes:
        loss: nats per token; None = not finite.
        copied: share of tokens, of text from the beginning of a row that stands at its end once
            more, that the model found likeliest; None in rows too short for it.
        tokens: that the loss is of.
    """

    loss: float | None
    by_position: tuple[PositionLoss, ...] = ()
    copied: float | None = bounded(None, least=0, most=1)
    tokens: int = 0
    seconds: float | None = None

    @property
    def lowness(self) -> float:
        """The loss as one to compare: what is not finite is above all others."""
        return math.inf if self.loss is None else self.loss


@dataclass(frozen=True, kw_only=True)
class StepRow(Row):
    """One optimizer step.

    Attributes:
        step, tokens: so far, this step included; step 0 is before the first, for `validation`.
        loss: nats per token; None = not finite.
        skipped: why the step was left out, where it was.
        stage: number of the stage, where the run has stages.
        validation: measured after the step, where it was.
    """

    step: int
    loss: float | None
    grad_norm: float | None = None
    lr: float | None = None
    tokens: int
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    seconds: float | None = None
    skipped: str | None = only_with("skipped")
    stage: int | None = only_with("stage")
    validation: Validation | None = only_with("validation")


@dataclass(frozen=True, kw_only=True)
class ValidationSummary(Row):
    """What validation came to in a run, or in its last stage.

    Attributes:
        first, last: before the first step, where the log has that, and at the end.
        best_step, best: the lowest loss.
        kept: the result is what was trained at `best_step`.
    """

    first: Validation
    last: Validation
    last_step: int = 0
    best_step: int = 0
    best: Validation
    kept: bool = False


def summarised(lines: Iterable[StepRow], *, keeps_best: bool) -> ValidationSummary | None:
    """Sum up the validation of a log; None where nothing was measured."""
    measured = [(line.step, line.validation) for line in lines if line.validation is not None]
    if not measured:
        return None
    best_step, best = min(measured, key=lambda pair: (pair[1].lowness, pair[0]))
    last_step, last = measured[-1]
    return ValidationSummary(
        first=measured[0][1], last=last, last_step=last_step, best_step=best_step, best=best,
        kept=keeps_best,
    )  # fmt: skip


def shown_loss(loss: float | None) -> str:
    """Write a loss, or that it is none."""
    return "not finite" if loss is None else f"{loss:.4f}"


class MeanLoss(NamedTuple):
    """The mean loss of the last `steps` steps of a run; None where there is none."""

    mean: float | None
    steps: int


def recent_loss(lines: Sequence[StepRow]) -> MeanLoss:
    """Average the loss over the last tenth of the steps, five at least: one alone is noise."""
    losses = [line.loss for line in lines if line.loss is not None and line.skipped is None]
    last = losses[-max(5, len(losses) // 10) :]
    return MeanLoss(round(sum(last) / len(last), 6) if last else None, len(last))


@dataclass(frozen=True)
class RunState(Row):
    """Where a run stands: the state.json of its checkpoints.

    Attributes:
        step: optimizer steps done.
        tokens: seen so far, by all ranks.
        recipe, data_sha256: of which run.
        rows_per_step: rows that all ranks read in one step; 0 in checkpoints of version 0.1.
        ranks: processes that wrote this.
        recent_losses: of the last steps that were not left out (`guard.harm`).
        skipped: steps left out in a row, up to this one.
        trained_sha256, optimizer_sha256: hashes of the tensors that are saved beside it.
        tensors: hash of their names, types and shapes, of versions that wrote no other.
    """

    step: int
    tokens: int
    recipe: Mapping[str, Any]
    data_sha256: str = ""
    rows_per_step: int = 0
    ranks: int = bounded(1, least=1, most=2**20)
    recent_losses: tuple[float, ...] = bounded((), most=1e308)
    skipped: int = 0
    tensors: str | None = bounded(None, matches=SHA256)
    trained_sha256: str | None = bounded(None, matches=SHA256)
    optimizer_sha256: str | None = bounded(None, matches=SHA256)
