"""How long work tells its caller how far it is: callbacks, and durations as people read them."""

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with (task, done, total, detail); done and total are in the task's own unit."""


def silent(task: str, done: int, total: int, detail: str) -> None:
    """Ignore the progress: the default listener."""


Note = Callable[[str], None]
"""Called with one sentence about something that happened on the way."""


def unheard(sentence: str) -> None:
    """Ignore a note: the default where nobody is told."""


def show_duration(seconds: float) -> str:
    """Write seconds as `80 s`, `45 min` or `2.5 h`.

    >>> show_duration(80), show_duration(2700), show_duration(9000)
    ('80 s', '45 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
