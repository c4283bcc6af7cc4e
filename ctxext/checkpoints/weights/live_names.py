"""Find in the files the tensor that a live multimodal model calls otherwise.

transformers 5 moved the decoder of most multimodal classes to `model.language_model`, and still
reads and writes files by the older names.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final, TypeVar

from ctxext.checkpoints.weights.adapter import Adapter

# (what a live name begins with, what the file's does), in the order in which they are tried.
_PREFIXES: Final = (
    ("model.language_model.", "language_model.model."),
    ("model.language_model.", "language_model."),
    ("model.language_model.", "model."),
    ("lm_head.", "language_model.lm_head."),
    # Older files hold a decoder without its head, as it was saved alone (gpt2, bloom, opt).
    ("model.", "backbone."),  # nemotron_h
    ("transformer.", ""),
    ("model.", ""),
)
Change = TypeVar("Change")


def stored_name(live: str, names: Collection[str]) -> str:
    """Return the name under which the files hold a tensor; its own where they hold none."""
    if live in names:
        return live
    for ours, theirs in _PREFIXES:
        if live.startswith(ours) and (name := theirs + live.removeprefix(ours)) in names:
            return name
    return live


def by_stored_names(changes: Adapter, names: Collection[str]) -> Adapter:
    """Rename the tensors that an adapter, or a training of all weights, changes."""

    def renamed(old: Mapping[str, Change]) -> dict[str, Change]:
        return {stored_name(name, names): change for name, change in old.items()}

    return replace(
        changes,
        low_rank=renamed(changes.low_rank),
        replaced=renamed(changes.replaced),
        biases=renamed(changes.biases),
        copies=renamed(changes.copies),
    )
