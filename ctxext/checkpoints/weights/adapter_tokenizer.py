"""Tell whether an adapter's folder brings a tokenizer of its own, as trainers of chats leave it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctxext.checkpoints.live.tokenizer import TOKENIZER
from ctxext.checkpoints.weights.carry import TOKENIZER_CONFIG
from ctxext.errors import BadInput
from ctxext.runs.json_file import read_json_object

_TEMPLATE = "chat_template.jinja"
_MOST_BYTES = 2**20  # of a chat template; the longest have 20 kB


def other_tokenizer(adapter: Path, base: Path) -> list[str]:
    """Name what the tokenizer beside an adapter has otherwise than the base's.

    Returns:
        Of "tokens" and "chat template"; nothing where it has the same, or none.
    """
    others = []
    # The base's file may have megabytes, and few adapters bring one.
    if (tokens := _tokens(adapter)) is not None and _tokens(base) not in (None, tokens):
        others.append("tokens")
    if (template := _template(adapter)) is not None and _template(base) != template:
        others.append("chat template")
    return others


def _tokens(folder: Path) -> dict[str, Any] | None:
    """Read the vocabulary and the added tokens; None where there are none that can be read."""
    held = _read(folder / TOKENIZER)
    model, added = held.get("model"), held.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    names = [each.get("content") for each in added or () if isinstance(each, dict)]
    return {"vocab": vocabulary, "added": names} if held else None


def _template(folder: Path) -> object:
    """Read the chat template, from its file or from tokenizer_config.json; None where none is."""
    path = folder / _TEMPLATE
    if path.is_file() and path.stat().st_size <= _MOST_BYTES:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    template = _read(folder / TOKENIZER_CONFIG).get("chat_template")
    return template.strip() if isinstance(template, str) else template


def _read(path: Path) -> Mapping[str, Any]:
    """Read a JSON object; an empty one where the file is not there or cannot be read."""
    try:
        return read_json_object(path)[0] if path.is_file() else {}
    except BadInput:
        return {}
