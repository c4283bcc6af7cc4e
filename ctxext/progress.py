"""How long work tells whoever called it how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with (task, done, total, detail); done and total are in the task's own unit."""


def silent(task: str, done: int, total: int, detail: str) -> None:
    """The default listener: says nothing."""
