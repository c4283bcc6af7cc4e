"""Draw `OUT/loss.png` while training goes on."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ctxext.progress import Note, unheard
from ctxext.runs.rows.training import StepRow

_EVERY = 30.0  # seconds between two pictures: one takes about 0.3

Lines = Sequence[StepRow]


class LossPlot:
    """Draws the log of a run in a thread of its own, at most every 30 seconds, and when it closes.

    A picture is no reason to stop a run: what goes wrong is told once, and nothing drawn any more.
    """

    def __init__(
        self,
        path: Path,
        on_note: Note = unheard,
        *,
        every: float = _EVERY,
        whole: Callable[[Lines], Lines] = tuple,
        title: str = "",
    ) -> None:
        """Prepare to draw `path`, a .png that is replaced, every so many seconds.

        Args:
            whole: makes what is drawn of the lines at hand, e.g. with those of earlier stages.
            title: which model is trained, and on what.
        """
        self._path, self._on_note, self._every, self._whole = path, on_note, every, whole
        self._title = title
        self._lines: Lines = ()
        self._thread: threading.Thread | None = None
        self._next = time.monotonic() + every
        self._problem: str | None = None
        self._told = False

    def __enter__(self) -> "LossPlot":
        return self

    def update(self, lines: Lines) -> None:
        """Tell of a log that has grown; returns at once."""
        self._lines = lines
        self._tell()
        drawing = self._thread is not None and self._thread.is_alive()
        if self._told or drawing or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        self._thread = threading.Thread(target=self._draw, args=(tuple(lines),), daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()
        if self._problem is None and self._lines:
            self._draw(self._lines)
        self._tell()

    def _draw(self, lines: Lines) -> None:
        staging = self._path.with_name(f".{self._path.name}")
        try:
            from ctxext.report.charts.training import plot_loss

            plot_loss(staging, self._whole(lines), self._title)
            staging.replace(self._path)
        except Exception as error:  # whatever it is: training goes on
            self._problem = f"{self._path.name} is not drawn: {error or type(error).__name__}"

    def _tell(self) -> None:
        if self._problem is not None and not self._told:
            self._told = True
            self._on_note(self._problem)
