"""Read the window of a checkpoint: trained, and claimed now."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ctxext.checkpoints.config import families, rope_families
from ctxext.checkpoints.config.rope_block import RopeBlock
from ctxext.encodings.rope_types import rope_type_facts
from ctxext.errors import BadInput
from ctxext.methods.dual_chunk import CONFIG_KEY
from ctxext.runs.numbers import whole

_ORIGINAL: Final = "original_max_position_embeddings"
WINDOW_KEYS: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "n_ctx",
)
# Other names under which files state a length. No class of transformers reads them.
STATED: Final = (
    "max_sequence_length", "model_max_length", "max_seq_length", "max_seq_len", "seq_length",
    "max_model_len", "max_context_length", "context_length", "n_positions", "n_ctx",
)  # fmt: skip
# No decoder that rotates was trained on less before it was interpolated: a quotient below this
# means that max_position_embeddings was never multiplied.
_SHORTEST_TRAINED: Final = 2048
_TOO_LONG: Final = 2**31
RECORDED: Final = "ctxext.json"
"""The source of a trained window that an earlier extension wrote down."""


@dataclass(frozen=True)
class Window:
    """A window in tokens: trained (`original`), claimed now (`current`), and which key said so.

    `max_position_embeddings` is what the config says, which need be neither.
    """

    original: int
    current: int
    source: str
    max_position_embeddings: int


@dataclass(frozen=True)
class Origin:
    """What an earlier `ctxext extend` wrote down: the base before any scaling.

    `rope_theta`: None where it had no rope.
    """

    window: int
    rope_theta: float | None = None


def claimed_window(
    config: Mapping[str, Any], model_type: str, where: str, warnings: list[str]
) -> Window:
    """Read the window that the config's own key names, before any scaling is looked at.

    Raises:
        BadInput: it names none, and neither does the family's class.
    """
    for key in _keys(model_type):
        tokens = whole(config, key, where)
        if tokens is not None:
            return Window(tokens, tokens, key, tokens)
    tokens = rope_families.WINDOW_WHEN_ABSENT.get(model_type)
    if tokens is None or WINDOW_KEYS[0] in config:
        raise BadInput(
            f"{where} has no max_position_embeddings, so its window is unknown",
            "add the key, as the base model's card gives it",
        )
    warnings.append(
        f"{where} has no max_position_embeddings; {tokens}, which transformers assumes for "
        f"{model_type}, is taken"
    )
    return Window(tokens, tokens, f"transformers' default for {model_type}", tokens)


def window_key(config: Mapping[str, Any], model_type: str) -> str:
    """Name the key under which a family's class reads its window."""
    key = families.WINDOW_KEY.get(model_type)
    if key is not None:
        return key
    read = WINDOW_KEYS if _names_it_freely(model_type) else _keys_of_class(model_type)
    return next((key for key in read if config.get(key) is not None), WINDOW_KEYS[0])


def _keys(model_type: str) -> tuple[str, ...]:
    """List the keys that may state a window: the class's own, where it assumes one without them."""
    assumed = model_type in rope_families.WINDOW_WHEN_ABSENT
    return _keys_of_class(model_type) if assumed else WINDOW_KEYS


def _keys_of_class(model_type: str) -> tuple[str, ...]:
    other = families.OTHER_WINDOW_KEY.get(model_type)
    return WINDOW_KEYS[:1] if other is None else (WINDOW_KEYS[0], other)


def _names_it_freely(model_type: str) -> bool:
    """Tell whether no class is known that reads max_position_embeddings."""
    return model_type not in families.KNOWN or model_type in families.READS_NO_WINDOW


def states_window(config: Mapping[str, Any], model_type: str) -> bool:
    """Tell whether a config, or its class where it is silent, states a window."""
    stated = any(config.get(key) is not None for key in (*WINDOW_KEYS, *_own_key(model_type)))
    return stated or model_type in rope_families.WINDOW_WHEN_ABSENT


def _own_key(model_type: str) -> tuple[str, ...]:
    key = families.WINDOW_KEY.get(model_type)
    return () if key is None else (key,)


def raise_window(config: dict[str, Any], model_type: str, said: int, tokens: int) -> None:
    """Write the window under the key that the class reads, and under others that said the same."""
    config[window_key(config, model_type)] = tokens
    for key in STATED:
        if config.get(key) == said:
            config[key] = tokens


def believed(
    origin: Origin | None, block: RopeBlock | None, current: int, where: str, warnings: list[str]
) -> Origin | None:
    """Believe what a `ctxext.json` says of the base, unless the config beside it contradicts: it
    may be another checkpoint's, and an extension only ever makes window and base larger.

    Args:
        block: None of a checkpoint without a rope.
    """
    if origin is None or (block is not None and origin.rope_theta is None):
        return None
    said = ""
    if origin.window > current:
        said = f"a trained window of {origin.window} tokens, and {where} claims {current}"
    elif (
        block is not None
        and block.rope_type == "default"
        and (origin.rope_theta or 0) > block.rope_theta
    ):
        said = f"an original rope_theta of {origin.rope_theta:g}, above {block.rope_theta:g} now"
    if said:
        warnings.append(f"ctxext.json says {said}: it is not believed")
    return None if said else origin


def read_windows(
    config: Mapping[str, Any],
    block: RopeBlock,
    said: Window,
    original_length: int | None,
    origin: Origin | None,
    where: str,
    warnings: list[str],
    doubts: list[BadInput],
) -> Window:
    """Read trained and claimed window of a rotary checkpoint, whatever scaling it already has.

    The claimed window is the longer of what the config says and what its rope block reaches:
    original x factor.

    Args:
        config, block: of the same file.
        said: as `claimed_window` read it.
        original_length: the trained window as the user knows it.
        warnings: gets what was assumed, and lengths that contradict each other.
        doubts: gets a trained window that is larger than the config's own.

    Raises:
        BadInput: a window of 2**31 tokens or more.
    """
    tokens, stated = said.max_position_embeddings, block.original_max_position_embeddings
    if stated is not None and stated > tokens and _states_original(config):
        doubts.append(
            BadInput(
                f"{where}: {_ORIGINAL} {stated} is larger than max_position_embeddings {tokens}"
            )
        )
    assumed = warnings if original_length is None else []  # what the user knows is not assumed
    match rope_type_facts(block.rope_type).window:
        case "factor-of-original" | "stated":
            window = _of_stated(block, said, where, assumed)
        case "raised-or-not":
            window = _of_linear(config, block, said, origin, where, assumed)
        case "kept":
            window = _of_dynamic(block, said, where, warnings)
        case _:
            window = _of_unscaled(config, block, said, origin, where, warnings)
    if window.current >= _TOO_LONG:
        raise BadInput(
            f"{where}: {window.original} x factor {block.factor or 1:g} is beyond 2**31 tokens"
        )
    name_contradictions(config, window, where, warnings)
    if original_length is not None:
        longest = max(window.current, original_length)
        return replace(
            window, original=original_length, current=longest, source="--original-length"
        )
    return window


def _states_original(config: Mapping[str, Any]) -> bool:
    """Tell whether the file says the trained window; a class may have a value of its own."""
    blocks = (config, config.get("rope_scaling"), config.get("rope_parameters"))
    return any(isinstance(block, dict) and _ORIGINAL in block for block in blocks)


def _of_stated(block: RopeBlock, said: Window, where: str, warnings: list[str]) -> Window:
    """Read the window where the formula holds the trained one, else max_position_embeddings."""
    tokens, factor = said.max_position_embeddings, block.factor or 1.0
    original, source = block.original_max_position_embeddings, _ORIGINAL
    if original is None:
        original, source = tokens, said.source
        if factor > 1:
            warnings.append(
                f"{where} does not say its original window; transformers takes "
                f"max_position_embeddings, {tokens} tokens (correct it with --original-length)"
            )
    reached = round(original * factor)
    if rope_type_facts(block.rope_type).window == "factor-of-original":
        if original < tokens and reached < tokens and block.factor is not None:
            warnings.append(
                f"{where}: max_position_embeddings says {tokens}, and yarn's factor {factor:g} "
                f"reaches {reached} tokens from {original}"
            )
        return Window(original, max(original, tokens, reached), source, tokens)
    # The factor of llama3 is a number of its own, and longrope has lists in its place.
    current = max(original, reached) if tokens == original else max(original, tokens)
    return Window(original, current, source, tokens)


def _of_linear(
    config: Mapping[str, Any],
    block: RopeBlock,
    said: Window,
    origin: Origin | None,
    where: str,
    warnings: list[str],
) -> Window:
    """Guess whether max_position_embeddings was raised with the factor, which few files say."""
    tokens, factor = said.max_position_embeddings, block.factor or 1.0
    stated = block.original_max_position_embeddings
    if stated is not None:
        return Window(stated, max(stated, tokens, round(stated * factor)), _ORIGINAL, tokens)
    if origin is not None:
        return Window(origin.window, max(tokens, origin.window), RECORDED, tokens)
    if factor <= 1:
        return said
    lengths, quotient, reached = stated_lengths(config), tokens / factor, round(tokens * factor)
    for key, length in lengths.items():
        if length == reached:
            return replace(said, current=reached)
        if length == quotient:
            return Window(length, tokens, key, tokens)
    raised = quotient >= _SHORTEST_TRAINED and quotient == round(quotient)
    if raised or (tokens in lengths.values() and quotient >= 1):
        original = round(quotient)
        warnings.append(
            f"{where} does not say its original window: {tokens} / {factor:g} = {original} is "
            "assumed (correct it with --original-length)"
        )
        return Window(original, tokens, f"{said.source} / factor", tokens)
    warnings.append(
        f"{where} does not say its original window: {tokens} is assumed, because nothing is "
        f"trained on {tokens} / {factor:g} tokens (correct it with --original-length)"
    )
    return replace(said, current=reached)


def _of_dynamic(block: RopeBlock, said: Window, where: str, warnings: list[str]) -> Window:
    """Take max_position_embeddings as trained, as the formula does; a file may say another."""
    tokens, factor = said.max_position_embeddings, block.factor or 1.0
    stated = block.original_max_position_embeddings
    if stated is not None and stated != tokens:
        warnings.append(
            f"{where} states {_ORIGINAL} {stated}, and dynamic scaling counts from "
            f"max_position_embeddings, {tokens}: it does nothing up to there"
        )
        if stated < tokens:
            return Window(stated, max(tokens, round(stated * factor)), _ORIGINAL, tokens)
    return replace(said, current=max(tokens, round(tokens * factor)))


def _of_unscaled(
    config: Mapping[str, Any],
    block: RopeBlock,
    said: Window,
    origin: Origin | None,
    where: str,
    warnings: list[str],
) -> Window:
    tokens, stated = said.max_position_embeddings, block.original_max_position_embeddings
    if origin is not None:
        return replace(said, original=origin.window, source=RECORDED)
    if stated is not None and stated < tokens:
        return replace(said, original=stated, source=_ORIGINAL)
    chunked = config.get(CONFIG_KEY)
    trained = _length(chunked.get(_ORIGINAL)) if isinstance(chunked, dict) else None
    if trained is not None and trained < tokens:
        warnings.append(
            f"{where}: trained at {trained} tokens, says {CONFIG_KEY}; the rest of {tokens} is "
            "reached by dual chunk attention, which SGLang and vLLM 0.8.5 to 0.10 do and "
            "transformers does not"
        )
        return replace(said, original=trained, source=f"{CONFIG_KEY}.{_ORIGINAL}")
    return said


def _length(value: object) -> int | None:
    """Read a number of tokens; None for anything else, which decides nothing in these keys."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 < value < _TOO_LONG and value == value // 1 else None


def stated_lengths(config: Mapping[str, Any]) -> dict[str, int]:
    """Read the lengths that stand in a file under other names than a class reads."""
    lengths = {key: _length(config.get(key)) for key in STATED}
    return {key: length for key, length in lengths.items() if length is not None}


def name_contradictions(
    config: Mapping[str, Any], window: Window, where: str, warnings: list[str]
) -> None:
    """Say which other key of the file states a length that is none of the window's."""
    lengths = stated_lengths(config)
    chunked = config.get(CONFIG_KEY)
    if isinstance(chunked, dict) and (trained := _length(chunked.get(_ORIGINAL))) is not None:
        lengths[f"{CONFIG_KEY}.{_ORIGINAL}"] = trained
    known = {window.original, window.current, window.max_position_embeddings}
    for key, length in lengths.items():
        if length not in known and key != window.source:
            warnings.append(
                f"{where}: {key} says {length} tokens, and the window is {window.original} "
                f"trained, {window.current} claimed"
            )
