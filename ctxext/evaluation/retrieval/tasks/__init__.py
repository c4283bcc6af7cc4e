"""What a model is asked about a long text: one file, one task; `--tasks passkey` is `passkey.py`.

A task makes words (`Item`); lengths, scoring and statistics are not its business.
"""

import importlib
import pkgutil

from ctxext.evaluation.retrieval.tasks._draw import Draw
from ctxext.evaluation.retrieval.tasks._registry import TASKS, Item, Task, Wording, get_task

# Every file of this folder registers itself: a new task is a new file, and no list to edit.
for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["TASKS", "Draw", "Item", "Task", "Wording", "get_task"]
