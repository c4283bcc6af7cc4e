"""The callbacks by which long work tells its caller how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with (task, done, total, detail); done and total are in the task's own unit."""


def silent(task: str, done: int, total: int, detail: str) -> None:
    """Ignore the progress: the default listener."""


Note = Callable[[str], None]
"""Called with one sentence about something that happened on the way."""


def unheard(sentence: str) -> None:
    """Ignore a note: the default where nobody is told."""
