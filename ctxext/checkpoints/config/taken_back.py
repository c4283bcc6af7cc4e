"""Make the config that a checkpoint had before it was extended, as a value."""

from collections.abc import Mapping
from typing import Any, Final

from ctxext.checkpoints.config.decoder_part import PART, stated_part, with_decoder_part
from ctxext.checkpoints.config.detect import Position, detect
from ctxext.checkpoints.config.extendable import not_by_this
from ctxext.checkpoints.config.patch import ABSENT, Patch, extendable_rope
from ctxext.checkpoints.config.rotation import Rope
from ctxext.checkpoints.config.write_rope import write_rope
from ctxext.encodings.kinds import ROTARY
from ctxext.encodings.none import WindowSpec
from ctxext.encodings.rope_types import rope_type_facts
from ctxext.errors import BadInput
from ctxext.methods import Method, get_method, top_keys
from ctxext.runs.rows.record import RunRecord

_LENGTHS: Final = (
    "tokenizer_config.model_max_length", "tokenizer.truncation.max_length",
    "generation_config.max_length",
)  # fmt: skip
_FILES: Final = ("tokenizer_config.", "tokenizer.", "generation_config.")


def plan_taking_back(
    config: Mapping[str, Any],
    position: Position,
    recorded: RunRecord | None,
    *,
    method: str,
    parameters: Mapping[str, Any],
    where: str = "config.json",
) -> Patch:
    """Compute the config of the checkpoint as it was before any extension.

    Args:
        config, position: of the extended checkpoint.
        recorded: the `ctxext.json` beside it; None = there is none.
        method, parameters: as for `ctxext.methods`.

    Raises:
        BadInput: it is not extended, or what it was before cannot be known.
    """
    chosen = get_method(method)
    if position.encoding not in ROTARY:
        return _window_taken_back(config, position, recorded, chosen, parameters, where)
    rope = extendable_rope(position, chosen, where)
    before = unscaled(recorded)
    if before:
        _check_of_this_config(recorded, position, where)
        restored = _restored(config, before)
        after = detect(restored, where=where)
        window = after.window
        said = {key: (value, None) for key, value in before.items() if key.startswith(_FILES)}
        chosen(rope.spec, window.original, **parameters)  # which says what is wrong with them
        return Patch(
            restored, None, chosen.name, window.original, window.current, (), restored=said
        )
    chunked = [key for key in top_keys() if key in config]
    if not (rope.scaled or chunked):
        raise BadInput(
            f"{where}: there is no extension to take back: its rope is not scaled",
            f"if its rope_theta of {rope.block.rope_theta:g} was raised, only a ctxext.json could "
            "tell: use the unscaled base",
        )
    _check_window_is_said(rope, position, where)
    original = position.window.original
    claimed = (position.window.current, position.window.max_position_embeddings)
    extension = chosen.rope(rope.spec, original, **parameters)
    decoder = dict(stated_part(config, position.part))
    write_rope(decoder, extension, position)
    new = with_decoder_part(config, position.part, decoder)
    warnings = (
        f"no ctxext.json tells what was changed: {original} tokens and rope_theta "
        f"{extension.rope_theta:g} are what the rope block says, and other keys stay as they are",
    )
    lengths = {key: (original, claimed) for key in _LENGTHS}
    return Patch(new, extension, chosen.name, original, original, warnings, restored=lengths)


def _window_taken_back(
    config: Mapping[str, Any],
    position: Position,
    recorded: RunRecord | None,
    method: Method,
    parameters: Mapping[str, Any],
    where: str,
) -> Patch:
    """Compute the config of a checkpoint without a rope as it was: by its record alone.

    Raises:
        BadInput: there is no record, or the config is not the one that it tells of.
    """
    if (reason := not_by_this(position, method, where)) is not None:
        raise reason
    before = unscaled(recorded)
    if not before:
        raise BadInput(
            f"{where}: there is no extension to take back, or no ctxext.json tells of it",
            "use the checkpoint that it was made of",
        )
    for key, pair in ((recorded.config_diff if recorded else None) or {}).items():
        if not key.startswith(_FILES) and config.get(key, ABSENT) != pair[1]:
            raise BadInput(
                f"{where} was changed after ctxext wrote it ({key}), so what its ctxext.json says "
                "of the original does not hold",
                "use the checkpoint that it was made of",
            )
    restored = _restored(config, before)
    window = detect(restored, where=where).stated_window
    original = window.original if window else position.window.original
    method(WindowSpec(original), original, **parameters)  # which says what is wrong with them
    said = {key: (value, None) for key, value in before.items() if key.startswith(_FILES)}
    return Patch(restored, None, method.name, original, original, (), restored=said)


def _check_window_is_said(rope: Rope, position: Position, where: str) -> None:
    """Refuse a block whose original window is a guess: it does not say the window it scaled."""
    guessed = rope_type_facts(rope.block.rope_type).window == "raised-or-not"
    said = rope.block.original_max_position_embeddings is not None
    if guessed and not said and position.window.source not in ("--original-length", "ctxext.json"):
        raise BadInput(
            f"{where} does not say its original window, and no ctxext.json does",
            "give it with --original-length",
        )


def unscaled(recorded: RunRecord | None) -> dict[str, Any]:
    """List what a record says of the keys that extensions changed, as they were before the first.

    Returns:
        {key of the config, or FILE.KEY: value}; `(absent)` for a key that was not there.
    """
    if recorded is None:
        return {}
    if recorded.unscaled is not None:
        return dict(recorded.unscaled)
    return {key: pair[0] for key, pair in (recorded.config_diff or {}).items()}


def _check_of_this_config(recorded: RunRecord | None, position: Position, where: str) -> None:
    """Refuse a record that tells of another rope than the config beside it."""
    rope = recorded.document.get("rope") if recorded is not None else None
    written = rope.get("sha256") if isinstance(rope, dict) else rope
    if position.rope is None or written != position.rope.sha256:
        raise BadInput(
            f"{where} was changed after ctxext wrote it, so what its ctxext.json says of the "
            "original does not hold",
            "use the unscaled base, or remove ctxext.json: the rope block counts then",
        )


def _restored(config: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    new = dict(config)
    if isinstance(new.get(PART), dict):
        new[PART] = dict(new[PART])
    for key, value in before.items():
        if key.startswith(_FILES):
            continue
        level, name = new, key
        if key.startswith(f"{PART}.") and isinstance(new.get(PART), dict):
            level, name = new[PART], key.removeprefix(f"{PART}.")
        if value == ABSENT:
            level.pop(name, None)
        else:
            level[name] = value
    return new
