"""transformers itself: since which release it computes what a method writes."""

from typing import Final

from ctxext.methods import METHODS

_SINCE_YARN: Final = "4.51"
# Its class ignored rope_scaling before.
_FIRST_OF: Final = {"mistral": "4.48"}


def first_transformers(method: str, model_type: str) -> str:
    """The first transformers release in which a family's class computes a method rightly."""
    since = METHODS[method].since if method in METHODS else _SINCE_YARN
    first = _FIRST_OF.get(model_type)
    if first is None or since == "any":
        return since
    return max(since, first, key=lambda release: [int(part) for part in release.split(".")])
