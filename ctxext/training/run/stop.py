"""SIGTERM and Ctrl-C during training: finish the step, save, then stop."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ctxext.machine.signals import ending_signals
from ctxext.progress import Note, unheard


class StopRequest:
    """Which signal asked for an end, if one did."""

    def __init__(self) -> None:
        self.signal: int | None = None


_TOGETHER = 5.0  # seconds in which one request may arrive several times


@contextmanager
def graceful_stop(*, launched: bool = False, on_note: Note = unheard) -> Iterator[StopRequest]:
    """Turn the first SIGTERM, SIGHUP or SIGINT into a request; a second one ends at once.

    Args:
        launched: by `torchrun`, which sends on what the terminal or Slurm has sent to all: what
            comes within a few seconds is one request.
        on_note: told at once that the step at hand is finished first.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may take signals
        return

    first = 0.0

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal first
        if request.signal is None:
            request.signal, first = signum, time.monotonic()
            on_note(
                "stopping: the step at hand is finished and saved; a second signal ends at once"
            )
            if not launched:
                signal.signal(signum, signal.SIG_DFL)
        elif time.monotonic() - first > _TOGETHER:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)

    before = {number: signal.signal(number, ask) for number in ending_signals()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
