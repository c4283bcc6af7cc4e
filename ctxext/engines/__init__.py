"""What serving engines make of the config that a method writes: one file, one engine.

May import `methods` and what lies below it; plain data, no torch. `linear`, `ntk`, `llama3` and
plain `yarn` were also run in llama.cpp and agree with transformers to rounding.
"""

import importlib
import pkgutil

from ctxext.engines._matrix import Cell, Verdict, cell, takes_attention
from ctxext.engines._registry import Engine, ListAttention, Reading
from ctxext.engines._releases import before

# Every file of this folder holds one `ENGINE`: a new engine is a new file, and no list to edit.
ENGINES: tuple[Engine, ...] = tuple(
    sorted(
        (
            importlib.import_module(f"{__name__}.{file.name}").ENGINE
            for file in pkgutil.iter_modules(__path__)
            if not file.name.startswith("_") and file.name != "notes"
        ),
        key=lambda engine: engine.rank,
    )
)

__all__ = [
    "ENGINES", "Cell", "Engine", "ListAttention", "Reading", "Verdict", "before", "cell",
    "takes_attention",
]  # fmt: skip
