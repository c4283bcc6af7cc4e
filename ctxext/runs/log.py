"""The run's log: one JSON line for each optimizer step, whole lines only, rewound on resume."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctxext.errors import BadInput
from ctxext.progress import Note, unheard
from ctxext.runs.checked import (
    Broken,
    Shape,
    checked,
    count,
    measured,
    printable_texts,
    text,
)
from ctxext.runs.output import write_file

_MAX_BYTES = 1024**3
_LINE: Shape = {
    "step": count, "tokens": count, "loss": measured, "grad_norm": measured, "lr": measured,
    "tokens_per_second": measured, "peak_memory_bytes": measured, "seconds": measured,
    "skipped": text, "stage": measured,
}  # fmt: skip
LogListener = Callable[[Sequence[Mapping[str, Any]]], None]
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
        kept = [line for line in read_log(path, on_note) if line["step"] <= after]
        write_file(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.lines: list[dict[str, Any]] = kept
        self._file = path.open("a", encoding="utf-8")
        self._on_line = on_line

    def write(self, line: Mapping[str, Any]) -> None:
        self.lines.append(dict(line))
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._on_line is not None:
            self._on_line(self.lines)

    def close(self) -> None:
        self._file.close()


def read_log(path: Path, on_note: Note = unheard) -> list[dict[str, Any]]:
    """All whole lines of a log, in which `step` and `tokens` stand.

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


def _line(content: str) -> dict[str, Any] | None:
    """The line of a step; None where it is damaged."""
    try:
        value = json.loads(content)
        if not isinstance(value, dict) or any(isinstance(v, dict | list) for v in value.values()):
            return None
        value = printable_texts(value)
        line = checked(value, _LINE)
        return {key: line[key] for key in value}  # none that were not there
    except (ValueError, RecursionError, Broken):
        return None
