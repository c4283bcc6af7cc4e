"""Keep what a run has measured, line by line, so that a killed run goes on from there.

A text file for each rank and not a database: a line that is flushed outlives SIGKILL, on any disk.
"""

import json
import math
from pathlib import Path
from typing import Any

from ctxext.errors import BadInput
from ctxext.machine.launch import Launch
from ctxext.runs.json_file import finite

Rows = list[list[float]]
_NAME = "measured-{rank}.jsonl"
_LARGEST = 1e15  # nats and shares are far below; a damaged line may hold anything


class Journal:
    """Numbers by (key, index), in files that each process appends to and all processes read.

    A line that a kill cut short is passed over, and measured again. Numbers come back exactly as
    they were, so a resumed run's results are the uninterrupted run's to the last bit; one that is
    not finite is null in the file, and NaN again.
    """

    def __init__(self, folder: Path | None = None, launch: Launch | None = None) -> None:
        """Open the files in `folder`; None keeps everything in memory.

        All processes of `launch` do so together: rank 0 reads for all.
        """
        launch = launch or Launch()
        self._known: dict[str, dict[int, Rows]] = launch.on_main(lambda: _read(folder))
        self._file = None
        if folder is not None:
            path = folder / _NAME.format(rank=launch.rank)
            torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
            self._file = path.open("a", encoding="utf-8")
            if torn:
                self._file.write("\n")

    def known(self, key: str) -> dict[int, Rows]:
        """Return what is measured under a key: index -> rows."""
        return self._known.setdefault(key, {})

    def add(self, key: str, index: int, rows: Rows) -> None:
        """Keep rows; they outlive this process from now on."""
        self.known(key)[index] = rows
        if self._file is not None:
            self._file.write(json.dumps([key, index, finite(rows)]) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file; what it holds stays."""
        if self._file is not None:
            self._file.close()


def _read(folder: Path | None) -> dict[str, dict[int, Rows]]:
    known: dict[str, dict[int, Rows]] = {}
    for path in sorted(folder.glob(_NAME.format(rank="*"))) if folder is not None else ():
        if not path.is_file():  # a pipe would be waited for without end
            raise BadInput(f"{path} is not a regular file", "remove it")
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            entry = _entry(line)
            if entry is not None:
                key, index, rows = entry
                known.setdefault(key, {})[index] = rows
    return known


def _entry(line: str) -> tuple[str, int, Rows] | None:
    """Read a line's content; None for one that was cut short or is damaged."""
    try:
        match json.loads(line):
            case [str(key), int(index), list(rows)] if index is not True and index is not False:
                return key, index, [_row(row) for row in rows]
    except (ValueError, RecursionError):
        return None
    return None


def _row(value: Any) -> list[float]:
    """Read a row of numbers, null being NaN.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, list):
        raise ValueError
    return [_number(item) for item in value]


def _number(value: Any) -> float:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        raise ValueError
    return value
