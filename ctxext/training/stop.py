"""SIGTERM and Ctrl-C during training: finish the step, save, then stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Which signal asked for an end, if one did."""

    def __init__(self) -> None:
        self.signal: int | None = None


@contextmanager
def graceful_stop() -> Iterator[StopRequest]:
    """Turn the first SIGTERM, SIGHUP or SIGINT into a request; a second one ends at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may take signals
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        request.signal = signum
        signal.signal(signum, signal.SIG_DFL)

    wanted = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {number: signal.signal(number, ask) for number in wanted}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
