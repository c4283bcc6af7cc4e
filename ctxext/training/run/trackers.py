"""Send the numbers of each step to a tracker that accelerate knows (`--report-to`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctxext.errors import BadInput, CtxextError
from ctxext.runs.rows.training import StepRow

PROJECT = "ctxext"
_PACKAGES = {"comet_ml": "comet-ml"}  # where the name on PyPI is another


def check_tracker(name: str) -> None:
    """Refuse a tracker that accelerate does not know, or whose package is missing.

    Raises:
        BadInput: naming the known ones, or what to install.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    built_in = {str(logger.value) for logger in LoggerType} - {"all"}
    if name not in LOGGER_TYPE_TO_CLASS:
        raise BadInput(
            f"--report-to {name} is no tracker that accelerate knows",
            f"it knows: {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}",
        )
    if name in built_in and name not in {str(each.value) for each in get_available_trackers()}:
        package = _PACKAGES.get(name, name)
        raise BadInput(
            f"--report-to {name}: its package is not installed", f"pip install {package}"
        )


def start_tracker(accelerator: Any, run: str, recipe: Mapping[str, Any]) -> None:
    """Begin a tracker's run, named as the output folder; nothing without `--report-to`.

    Raises:
        CtxextError: the tracker itself failed (no login, no network).
    """
    if not accelerator.log_with:
        return
    plain = {key: _plain(value) for key, value in recipe.items()}
    names = [str(getattr(each, "value", each)) for each in accelerator.log_with]
    named = {"wandb": {"name": run}, "trackio": {"name": run}, "swanlab": {"experiment_name": run}}
    try:
        accelerator.init_trackers(
            PROJECT, config=plain, init_kwargs={n: named[n] for n in names if n in named}
        )
    except Exception as error:  # each tracker has its own family of errors
        raise CtxextError(
            f"--report-to {', '.join(names)} cannot start: {error}",
            "log in to it, or train without --report-to: log.jsonl is written anyway",
        ) from error


def report(accelerator: Any, line: StepRow) -> None:
    """Tell the tracker the numbers of a step's line of the log."""
    if accelerator.log_with:
        measured = line.validation
        beside = {"validation_loss": measured.loss, "copied": measured.copied} if measured else {}
        values = {**line.to_dict(), **beside}.items()
        numbers = {k: v for k, v in values if isinstance(v, int | float) and k != "step"}
        accelerator.log(numbers, step=line.step)


def finish_tracker(accelerator: Any) -> None:
    """Let a tracker write what it still holds."""
    for tracker in accelerator.trackers:
        tracker.finish()


def logging_folder(out: Path) -> Path:
    """Return where trackers that write files (tensorboard) put them."""
    return out / "report"


def _plain(value: Any) -> Any:
    """Turn a recipe's value into what every tracker takes."""
    return value if isinstance(value, int | float | str | bool) else str(value)
