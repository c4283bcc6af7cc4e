"""What a run is given beside its recipe: its base, where it computes and writes, who is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.dtype import DtypeName
from ctxext.checkpoints.folder import Source
from ctxext.machine.launch import Launch
from ctxext.progress import Note, Progress, silent, unheard
from ctxext.runs.log import LogListener
from ctxext.training.model.lora import TrainedGroup


@dataclass(frozen=True)
class Base:
    """The extended checkpoint that a run trains.

    Attributes:
        position: what `detect` read in its config.
        name: what an adapter calls it.
    """

    source: Source
    position: Position
    name: str


@dataclass(frozen=True)
class Where:
    """Where a run computes and writes, and what it goes on from.

    Attributes:
        out: an existing folder.
        launch: the processes of this run. All train together; rank 0 writes the files.
        resume: go on from the newest checkpoint in `out`, if there is one.
        recipe: what a resumed run has to agree with; None = its own. A stage's is the whole run's.
        start: tensors that a stage before has trained (`state.trained_file`), to begin from.
        run_name: what a tracker calls the run; None = the folder's name.
        report_to: a tracker that accelerate knows, checked by `trackers.check_tracker`.
    """

    out: Path
    launch: Launch = field(default_factory=Launch)
    device: str = "auto"
    dtype: DtypeName = "auto"
    trust_remote_code: bool = False
    resume: bool = False
    recipe: Mapping[str, Any] | None = None
    start: Path | None = None
    run_name: str | None = None
    report_to: str | None = None


@dataclass(frozen=True)
class StartReport:
    """What a run is about to do, told before its first step.

    Attributes:
        parameters: of the whole model.
        steps: of the whole run, each over `rows_per_step` rows of `row_tokens` tokens.
        rows: that the data gives.
        resumed_at: optimizer steps already done.
        loss_difference: of the self-check, relative; None when it was skipped.
        notes: sentences about what was decided for this model and machine.
    """

    groups: tuple[TrainedGroup, ...]
    parameters: int
    steps: int
    rows_per_step: int
    row_tokens: int
    rows: int
    resumed_at: int
    loss_difference: float | None
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """That the whole run reads."""
        return self.steps * self.rows_per_step * self.row_tokens

    @property
    def epochs(self) -> float:
        """How often the run reads the data."""
        return self.steps * self.rows_per_step / self.rows


@dataclass(frozen=True)
class Listeners:
    """Who is told what of a run.

    Attributes:
        note: told when a step is left out, or a damaged checkpoint passed over.
        start: told what is trained before the first step, on rank 0.
        log: told of all steps so far, after each, on rank 0.
    """

    note: Note = unheard
    start: Callable[[StartReport], None] | None = None
    log: LogListener | None = None
    progress: Progress = silent
