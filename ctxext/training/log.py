"""The run's log: one JSON line for each optimizer step, whole lines only, rewound on resume."""

import json
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctxext.checkpoints.output import write_file

LogListener = Callable[[Sequence[Mapping[str, Any]]], None]
"""Called with all lines of a log, in order, after each new one."""


class StepLog:
    """`OUT/log.jsonl`, opened for appending after step `after`; lines beyond it are dropped.

    A killed run may have logged steps that its last checkpoint does not hold; they come again.
    """

    def __init__(self, path: Path, after: int, on_line: LogListener | None = None) -> None:
        kept = [line for line in read_log(path) if line["step"] <= after]
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


def read_log(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def peak_memory_bytes() -> int:
    """Most memory used so far: of the GPU where there is one, else of this process."""
    import torch  # here: who only reads a log waits for none of it

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    known = _status("VmHWM:")
    if known is not None:
        return known
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_bytes() -> int:
    """What this process has in memory now; where nobody says it, the most it had so far."""
    known = _status("VmRSS:")
    return known if known is not None else peak_memory_bytes()


def _status(key: str) -> int | None:
    """A size in /proc/self/status; unlike getrusage's, it does not begin at the parent's peak."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return None
