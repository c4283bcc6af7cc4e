"""A step of a training run, a line of its log."""

from dataclasses import dataclass

from ctxext.runs.fields import only_with
from ctxext.runs.rows.row import Row


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
