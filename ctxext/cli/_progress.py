"""How far long work is: bars on a terminal, now and then a line in a log file."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ctxext.cli._output import err, terminal_text
from ctxext.errors import on_one_line
from ctxext.machine.launch import environment_rank
from ctxext.progress import Progress as Listener, show_duration, silent

_LONGEST_PAUSE = 30.0  # seconds between two lines while a task reports
_SHORTEST_PAUSE = 2.0  # seconds; a task that takes no longer gets its first line only
_SILENCE = 40.0  # seconds without any line, after which one says that the work goes on
_BEAT = 5.0  # seconds between two looks for that
_SHARE = 20  # of a task's work: a twentieth more is worth a line


@contextmanager
def progress(*, quiet: bool) -> Iterator[Listener]:
    """Show on stderr what an API function reports; of a launcher's processes rank 0 shows it."""
    if quiet or environment_rank() != 0:
        yield silent
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        with _bars() as listener:
            yield listener
    else:
        with _beating(Lines(err().print)) as lines:
            yield lines


@contextmanager
def _beating(lines: "Lines") -> Iterator["Lines"]:
    """Let lines be written from a thread where nothing is reported: one window can take minutes."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT):
            lines.beat()

    thread = threading.Thread(target=beat, name="ctxext-progress", daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        over.set()
        thread.join()


@contextmanager
def _bars() -> Iterator[Listener]:
    from rich import progress as rich_progress

    bars = rich_progress.Progress(
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(bar_width=24),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TextColumn("{task.fields[detail]}", markup=False),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        console=err(),
    )
    tasks: dict[str, Any] = {}

    def listen(task: str, done: int, total: int, detail: str) -> None:
        detail = terminal_text(detail)
        if task not in tasks:
            tasks[task] = bars.add_task(terminal_text(task), total=total, detail=detail)
        bars.update(tasks[task], completed=done, total=total, detail=detail)

    with bars:
        yield listen


@dataclass
class _Task:
    """What was heard of a task, and when; seconds of the clock, `done` in the task's own unit."""

    began: float
    done_at_first: int  # by an earlier run, or before the first report
    done: int
    said: float
    done_when_said: int

    def is_due(self, now: float, total: int) -> bool:
        """Tell whether its last line is old enough for another one."""
        pause = now - self.said
        further = (self.done - self.done_when_said) * _SHARE >= total
        ended = self.done >= total > self.done_when_said and now - self.began > _SHORTEST_PAUSE
        return pause >= _LONGEST_PAUSE or ended or (further and pause >= _SHORTEST_PAUSE)

    def times(self, now: float, total: int) -> str:
        """Write what it took so far, and what it may still take."""
        took, moved = now - self.began, self.done - self.done_at_first
        if moved <= 0:
            return ""
        so_far = f", {show_duration(took)}"
        if self.done >= total:
            return so_far
        return f"{so_far}, about {show_duration(took / moved * (total - self.done))} left"


class Lines:
    """A listener that writes a line for a task's first report, and then when it is worth one.

    That is after half a minute, or two seconds and a twentieth of the work, and at the end of a
    task that took more than two seconds. `beat` writes one where there was none for longer.
    """

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._tasks: dict[str, _Task] = {}
        self._began = self._said = clock()
        self._last = ""  # the task that was reported last, and how far it was
        self._lock = threading.Lock()

    def __call__(self, task: str, done: int, total: int, detail: str) -> None:
        """Hear a report, in the order of `ctxext.progress.Progress`."""
        with self._lock:
            now, known = self._clock(), self._tasks.get(task)
            share = 100 * done // total if total else 100
            far = f"{task} {done}/{total} ({share} %)"
            self._last = far if done < total else ""
            if known is None or done < known.done:  # less than before: the same task once more
                known = self._tasks[task] = _Task(now, done, done, now, done)
            else:
                known.done = done
                if not known.is_due(now, total):
                    return
                known.said, known.done_when_said = now, done
            line = f"{far}{known.times(now, total)}"
            self._say(f"{line}, {detail}" if detail else line, now)

    def beat(self) -> None:
        """Say that the work goes on, where nothing was said for so long."""
        with self._lock:
            now = self._clock()
            if now - self._said >= _SILENCE:
                so_far = show_duration(now - self._began)
                self._say(f"still at {self._last or 'work'}, {so_far} since the start", now)

    def _say(self, line: str, now: float) -> None:
        self._said = now
        self._write(on_one_line(f"ctxext: {line}"))
