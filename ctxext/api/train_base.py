"""`ctxext demo --train-base`: train the checkpoint that ctxext carries, from nothing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ctxext.api._arguments import checked
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.provenance import SCHEMA, command_line, read_record, versions, write_record
from ctxext.errors import BadInput
from ctxext.progress import Progress, silent
from ctxext.runs.output import staged_folder
from ctxext.runs.rows.record import RunRecord

_YEAR = 525_600
FULL_MINUTES = 30.0
"""What the whole training takes on two cores, roughly."""


@dataclass(frozen=True)
class BaseResult:
    """The trained base, and what was done; `to_dict` is the JSON document."""

    output_dir: str
    training: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"schema": "ctxext.base/1", "output_dir": self.output_dir, **self.training}


def shipped_base() -> Path:
    """Find the folder of the checkpoint inside the installed package.

    Raises:
        BadInput: this installation lacks it.
    """
    folder = Path(__file__).parent.parent / "lab" / "base"
    if not (folder / "config.json").exists():
        raise BadInput(
            f"{folder} is missing from this installation",
            "make one: ctxext demo --train-base --output-dir DIR",
        )
    return folder


def check_budget(minutes: float | None) -> None:
    """Check `--budget`: minutes, positive and a year at most; None = the default.

    Raises:
        BadInput: it is not.
    """
    if minutes is not None and not 0 < minutes <= _YEAR:
        raise BadInput(
            f"--budget is {minutes}, and has to be a positive number of minutes, at most {_YEAR}"
        )


@checked
def train_base(
    output_dir: str | Path,
    *,
    start: str | Path | None = None,
    budget: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
    on_progress: Progress = silent,
) -> BaseResult:
    """Train the byte-level Llama on the built-in corpus and write it as a checkpoint.

    The shipped one was made in two runs: from nothing, then `start`ed from the first.

    Args:
        start: an earlier base to go on with, on `lab.byte_llama.MORE`; None = from nothing.
        budget: minutes on two cores, roughly: the steps of every stage are scaled by
            budget / 30. None = all of them.

    Raises:
        BadInput: the output folder cannot be used, or the budget is not positive.
    """
    check_budget(budget)

    earlier = None if start is None else open_checkpoint(str(start))
    inputs = () if earlier is None else (earlier.source.folder,)
    with staged_folder(Path(output_dir), overwrite=overwrite, inputs=inputs) as folder:
        from ctxext.lab.byte_llama import MORE, STAGES, save, train

        share = 1.0 if budget is None else budget / FULL_MINUTES
        wanted = STAGES if earlier is None else MORE
        stages = tuple(replace(s, steps=max(1, round(s.steps * share))) for s in wanted)
        if earlier is None:
            model, training = train(stages=stages, seed=seed, on_progress=on_progress)
        else:
            model, training = train(
                start=load_model(earlier.source, earlier.position, dtype="float32"),
                stages=stages, peak_lr=1e-3, seed=seed + 1, on_progress=on_progress,
            )  # fmt: skip
            before = read_record(earlier.source.folder) or RunRecord()
            training["started_from"] = before.document.get("training")
        save(model, folder)
        write_record(
            folder,
            {
                "schema": SCHEMA,
                "kind": "base",
                "versions": versions(),
                "training": training,
                "command": command_line(),
            },
        )
    return BaseResult(str(output_dir), training)
