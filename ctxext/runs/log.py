"""The run's log: one JSON line for each optimizer step, whole lines only, rewound on resume."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ctxext.errors import BadInput, about_its_path
from ctxext.progress import Note, unheard
from ctxext.runs.checked import Broken, printable_texts
from ctxext.runs.output import write_file
from ctxext.runs.rows.training import StepRow

_MAX_BYTES = 1024**3
LogListener = Callable[[Sequence[StepRow]], None]
"""Called with all lines of a log, in order, after each new one."""


class StepLog:
    """`OUT/log.jsonl`, opened for appending after step `after`; lines beyond it are dropped.

    A killed run may have logged steps that its last checkpoint does not hold; they come again.
    """

    def __init__(
        self,
        path: Path,
        after: int,
        on_line: LogListener | None = None,
        on_note: Note = unheard,
    ) -> None:
        # A run that begins once more measures once more what there was before its first step.
        kept = [line for line in read_log(path, on_note) if after and line.step <= after]
        write_file(path, log_text(kept))
        self.lines: list[StepRow] = kept
        self._file = path.open("a", encoding="utf-8")
        self._on_line = on_line

    def write(self, line: StepRow) -> None:
        self.lines.append(line)
        self._file.write(log_text([line]))
        self._file.flush()
        if self._on_line is not None:
            self._on_line(self.lines)

    def close(self) -> None:
        self._file.close()


def log_text(lines: Iterable[StepRow]) -> str:
    """Write lines as they stand in a log."""
    return "".join(json.dumps(line.to_dict()) + "\n" for line in lines)


@about_its_path
def read_log(path: Path, on_note: Note = unheard) -> list[StepRow]:
    """Read all whole lines of a log, in which `step` and `tokens` stand.

    A last line that a kill cut short is left out in silence.

    Args:
        on_note: told how many other lines are damaged and left out.

    Raises:
        BadInput: it is no regular file, or larger than any log.
    """
    if not path.exists():
        return []
    if not path.is_file():  # a pipe would be waited for without end
        raise BadInput(f"{path} is not a regular file")
    if path.stat().st_size > _MAX_BYTES:
        raise BadInput(f"{path} is larger than {_MAX_BYTES >> 20} MiB, which no log is")
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error
    texts = content.split("\n")
    torn = texts.pop()  # nothing, where the last line is whole
    lines = [line for text in texts if (line := _line(text)) is not None]
    if damaged := len(texts) - len(lines):
        on_note(f"{path.name}: {damaged} damaged line{'s' * (damaged > 1)} left out")
    last = _line(torn)
    return lines if last is None else [*lines, last]


def _line(content: str) -> StepRow | None:
    """Read the line of a step; None where it is damaged."""
    try:
        return StepRow.from_dict(printable_texts(json.loads(content)))
    except (ValueError, RecursionError, Broken):
        return None
