"""What every evaluation command says of itself at its beginning and its end, on stderr."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from ctxext.cli._output import say_note
from ctxext.lengths import counted
from ctxext.masking import masked


def say_begun(command: str, models: Sequence[str], data: str | None, *, quiet: bool) -> None:
    """Say what is looked at, before anything is read or imported that takes its time."""
    text = "" if data is None else f" and the text {masked(data)}"
    say_note(quiet=quiet)(f"{command}: looking at {counted(len(models), 'model')}{text}")


def say_written(output_dir: str | None, *, quiet: bool) -> None:
    """Say where everything lies, and the command that makes a page of it; None: say nothing."""
    if output_dir is None:
        return
    files = sorted(path.name for path in Path(output_dir).iterdir() if path.is_file())
    again = shlex.join(["ctxext", "report", output_dir])
    say_note(quiet=quiet)(f"all of it lies in {output_dir}: {', '.join(files)}; next: {again}")
