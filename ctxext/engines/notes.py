"""Say what to know before a checkpoint is served, from what each engine reads."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from ctxext.engines import ENGINES, Engine, Reading
from ctxext.engines._matrix import takes_attention
from ctxext.engines._older import older_note, older_release
from ctxext.engines._releases import numbers_of
from ctxext.methods import METHODS, Attention, Method

_SINCE_YARN: Final = "4.51"
_NOTES: Final[dict[Reading, str]] = {
    "ignored": "{rope_type} scaling is ignored by {names}",
    "lost": "{rope_type} scaling is lost in {names}: use ntk or yarn to serve there",
    "refused": "{rope_type} scaling is refused by {names}: use ntk or yarn to serve there",
    "window-again": "the window is multiplied by the factor once more in {names}: "
    "pass {flags} {target}",
    "old-window": "the original window is offered by {names}: pass {flags} {target}",
}


def engine_notes(
    method: str, rope_block: Mapping[str, Any], target: int, model_type: str = ""
) -> list[str]:
    """List what goes wrong, engines that err alike in one sentence.

    Args:
        method: what was written; an unknown one has no notes.
        rope_block: the block in the config, whose keys some engines pass over.
        target: the window in tokens, for their flags.
        model_type: the family, which older transformers may read otherwise.
    """
    if method not in METHODS or not METHODS[method].of_rope:
        return []
    if METHODS[method].top_key:
        return _top_key_notes(METHODS[method].top_key)
    rope_type = METHODS[method].rope_type
    # A family's class may have another name for it, or only longrope's.
    written = rope_block.get("rope_type")
    notes = older_note(
        model_type, written if isinstance(written, str) else rope_type, list(rope_block)
    )
    for reading, note in _NOTES.items():
        engines = [engine for engine in ENGINES if engine.reading(rope_type) == reading]
        if engines:
            notes.append(
                note.format(
                    rope_type=rope_type,
                    names=_listed([engine.name for engine in engines]),
                    flags=" / ".join(engine.window_flag for engine in engines),
                    target=target,
                )
            )
    if "long_factor" in METHODS[method].facts.keys:
        return notes + _attention_notes(METHODS[method], rope_block)
    for key in rope_block:
        names = [_released(engine, key) for engine in ENGINES if key in engine.ignored_keys]
        if names:
            notes.append(f"{key} is ignored by {_listed(names)}")
    return notes


def _top_key_notes(key: str) -> list[str]:
    """Say which engines pass over a key on which everything depends, and which releases do not."""
    notes = [
        f"{key} is read by {engine.name} in {engine.top_keys[key]} only"
        for engine in ENGINES
        if engine.top_keys.get(key)
    ]
    names = [engine.name for engine in ENGINES if key not in engine.top_keys]
    return [f"{key} is ignored by {_listed(names)}: there the rope is unscaled", *notes]


def _attention_notes(method: Method, block: Mapping[str, Any]) -> list[str]:
    """Say which engines take another attention factor with longrope's lists than the file says."""
    attention: Attention = method.attention
    if "attention_factor" in block:
        attention = "one" if block["attention_factor"] == 1 else "own"
    names = [
        engine.name
        for engine in ENGINES
        if engine.reading(method.rope_type) not in ("ignored", "lost", "refused")
        and not takes_attention(engine, attention)
    ]
    if not names:
        return []
    return [f"{method.rope_type}'s attention_factor is not taken as it is said by {_listed(names)}"]


def first_transformers(method: str, model_type: str, keys: Collection[str] = ()) -> str:
    """Name the first transformers release in which a family's class computes a method rightly.

    Args:
        keys: of the rope block, where they are known.
    """
    since, rope_type = _SINCE_YARN, "yarn"
    if method in METHODS:
        since, rope_type = METHODS[method].since, METHODS[method].rope_type
    if not rope_type:
        return since
    older = older_release(model_type, rope_type, keys)
    if older is None:
        return since
    if since == "any":
        return older.first
    return max(since, older.first, key=numbers_of)


def serve_commands(repo_id: str, target: int) -> list[tuple[str, str]]:
    """List (engine, command) with plain numbers of tokens: vLLM's own `k` is 1000."""
    return [
        (engine.name, command)
        for engine in ENGINES
        if (command := engine.command(repo_id, target, local=False)) is not None
    ]


def _released(engine: Engine, key: str) -> str:
    return f"{engine.ignored_keys[key]} {engine.name}".strip()


def _listed(names: list[str]) -> str:
    """Join names as `a, b and c`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
