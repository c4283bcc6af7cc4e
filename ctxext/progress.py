"""How long work tells whoever called it how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with (task, done, total, detail); done and total are in the task's own unit."""


def silent(task: str, done: int, total: int, detail: str) -> None:
    """The default listener: says nothing."""


Note = Callable[[str], None]
"""Called with one sentence about something that happened on the way."""


def unheard(sentence: str) -> None:
    """The default for notes: nobody is told."""
