"""Ways to extend a position encoding: one file, one method; `--method yarn` is `yarn.py`, and
`--method p-rope` is `p_rope.py`.

May import `encodings` only, and no torch: a method is a pure function of plain floats.
"""

import importlib
import pkgutil

from ctxext.methods._pairs import pair_by_pair
from ctxext.methods._registry import (
    METHODS,
    Attention,
    Extension,
    Method,
    RopeExtension,
    Scaling,
    ScoreExtension,
    SlopesExtension,
    Spec,
    TableExtension,
    Value,
    WindowExtension,
    get_method,
    methods_for,
    name_of_scaling,
    rope_methods,
    top_keys,
)

# Every file of this folder registers itself: a new method is a new file, and no list to edit.
for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "METHODS", "Attention", "Extension", "Method", "RopeExtension", "Scaling", "ScoreExtension",
    "SlopesExtension", "Spec", "TableExtension", "Value", "WindowExtension", "get_method",
    "methods_for", "name_of_scaling", "pair_by_pair", "rope_methods", "top_keys",
]  # fmt: skip
