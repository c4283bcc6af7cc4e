"""Where a training run stands, and the lines of its log."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ctxext.runs.fields import bounded, only_with
from ctxext.runs.rows.row import SHA256, Row


@dataclass(frozen=True, kw_only=True)
class StepRow(Row):
    """One optimizer step.

    Attributes:
        step, tokens: so far, this step included.
        loss: nats per token; None = not finite.
        skipped: why the step was left out, where it was.
        stage: number of the stage, where the run has stages.
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
        tensors: hash of the outline of what is saved beside it.
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
