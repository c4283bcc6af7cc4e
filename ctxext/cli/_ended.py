"""End the process at once on a signal, where nothing has begun yet or everything is done.

It is set before anything large is imported, which takes most of the time of a short command.
"""

import os
import signal
import sys
from types import FrameType

from ctxext.cli._stopped import Stopped
from ctxext.machine.signals import ending_signals


def end_on_signals() -> None:
    """Let a signal end the process with its exit code, without a traceback."""
    for number in ending_signals():
        signal.signal(number, _end)


def pass_over_signals() -> None:
    """Let no signal change the exit code any more: Python is being taken down."""
    for number in ending_signals():
        signal.signal(number, signal.SIG_IGN)


def _end(signum: int, frame: FrameType | None) -> None:
    stop = Stopped(signum)
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"ctxext: {stop.word}\n")
        sys.stderr.flush()
    os._exit(stop.exit_code)
