"""Read how a checkpoint encodes position, from its config.json alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.both_ways import looks_both_ways
from ctxext.checkpoints.config.decoder_part import (
    PART,
    decoder_part,
    decoders_elsewhere,
    with_left_out,
)
from ctxext.checkpoints.config.heads import HEADS, Heads, first_of, read_heads
from ctxext.checkpoints.config.layouts import Layer, read_layers, rotates_everywhere
from ctxext.checkpoints.config.rope_block import Dialect, read_rope_block
from ctxext.checkpoints.config.rope_families import FIXED_ALPHA, THETA_BY_LAYER
from ctxext.checkpoints.config.rope_forms import far_rope, form_of
from ctxext.checkpoints.config.rotation import Rope, check_sections, read_rope
from ctxext.checkpoints.config.tables import rows_before, rows_in_window
from ctxext.checkpoints.config.windows import (
    RECORDED,
    Origin,
    Window,
    believed,
    claimed_window,
    name_contradictions,
    read_windows,
    states_window,
)
from ctxext.checkpoints.config.words_of_code import WORDS_OF_CODE, unread_words
from ctxext.checkpoints.lab_decoder.model_type import ENCODINGS
from ctxext.encodings.alibi import AlibiSpec
from ctxext.encodings.kinds import ROTARY, PositionEncoding
from ctxext.encodings.learned import TableSpec
from ctxext.encodings.none import WindowSpec
from ctxext.encodings.rope_types import rope_type_facts
from ctxext.errors import BadInput, shown
from ctxext.methods import Spec
from ctxext.runs.numbers import real

_BLOCKS = ("rope_scaling", "rope_parameters")
_ROPE_KEYS = (
    "rope_theta", *_BLOCKS, "rotary_emb_base", "rotary_pct", "partial_rotary_factor",
)  # fmt: skip
_LAYERS = ("decoder_layers", "num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_blocks")
_OF_PICTURES = ("image_size", "patch_size", "num_channels")
_LONGEST_NAME = 100


@dataclass(frozen=True)
class Position:
    """Everything that a config says about where tokens sit; None where ctxext does not know.

    Attributes:
        stated_window: the window, where a key or the family's class states one.
        kept: numbers that a layer with attention keeps of each token in the KV cache.
        doubts: where the config contradicts itself; transformers reads it, and so do we, but no
            window is extended on such a ground.
        part: the key under which a multimodal checkpoint describes its decoder; None: it is one.
        spec: what it was trained with, as methods are told; None where no window is stated.
        both_ways: why it is an encoder, which nothing reads or trains; None: it decodes.
    """

    model_type: str
    architecture: str
    encoding: PositionEncoding | None
    stated_window: Window | None
    rope: Rope | None
    layers: tuple[Layer, ...]
    kv_heads: int | None
    head_dim: int | None
    kept: int | None
    dtype: str | None
    warnings: tuple[str, ...]
    doubts: tuple[BadInput, ...] = ()
    part: str | None = None
    spec: Spec | None = None
    both_ways: BadInput | None = None

    @property
    def reads_at_most(self) -> int | None:
        """The tokens after which its class stops with an error; None: it reads on."""
        ends = self.encoding == "learned" or self.model_type in families.ENDS_WITH_WINDOW
        return self.stated_window.max_position_embeddings if ends and self.stated_window else None

    @property
    def window(self) -> Window:
        """The window, for what cannot do without one.

        Raises:
            BadInput: none is stated.
        """
        if self.stated_window is None:
            raise BadInput(
                f"the config of this {self.model_type} has no max_position_embeddings, so its "
                "window is unknown",
                "add the key, as the base model's card gives it",
            )
        return self.stated_window

    @property
    def trained_tokens(self) -> int | None:
        """The window that it was trained with; None where none is stated."""
        return self.stated_window.original if self.stated_window else None

    @property
    def claimed_tokens(self) -> int | None:
        """The window that it claims to read; None where none is stated."""
        return self.stated_window.current if self.stated_window else None


def detect(
    config: Mapping[str, Any],
    *,
    where: str,
    original_length: int | None = None,
    prefer: Dialect | None = None,
    origin: Origin | None = None,
) -> Position:
    """Read position encoding, window and attention layout from a parsed config.json.

    Args:
        where: its path, for messages.
        original_length: the trained window, where the config is known to say something else.
        prefer: which rope dialect counts where the two disagree.
        origin: the unscaled base, where a `ctxext.json` beside the config tells it.

    Raises:
        BadInput: not a decoder, or a value that no reader could use; the key is named.
    """
    warnings: list[str] = []
    doubts: list[BadInput] = []
    file, (config, part) = config, decoder_part(config, where)
    model_type = _decoder_type(config, where if part is None else f"{where}: {part}")
    config = config if part is None else with_left_out(config, where, warnings)
    config = _as_its_class_reads(config, model_type)
    count = _count(config, model_type, where)
    heads = read_heads(config, model_type, where, warnings)
    encoding = _encoding(config, model_type, count, where, warnings)
    stated = _states_window(config, model_type, encoding)
    window = claimed_window(config, model_type, where, warnings) if stated else None
    turns = window is not None and encoding in ROTARY
    flat = _one_rope(config, model_type, heads, where, warnings) if turns else None
    rope = None
    if window is not None and flat is not None:
        known = _Known(original_length, prefer, origin)
        window, rope = _turned(flat, model_type, heads, window, known, where, warnings, doubts)
        if rope.spec.rotary_dim < rope.head_dim and encoding == "rope":
            encoding = "partial-rope"
    else:
        window = _of_length(config, window, original_length, origin, where, warnings)
    both = looks_both_ways(file, config, model_type, where, doubts)
    layers = read_layers(config, model_type, encoding, count, where, warnings)
    dtype = config.get("dtype", config.get("torch_dtype"))
    return Position(
        model_type=model_type, architecture=_architecture(file), encoding=encoding,
        stated_window=window, rope=rope, layers=layers, kv_heads=heads.kv_heads, both_ways=both,
        head_dim=heads.head_dim, kept=heads.kept, dtype=dtype if isinstance(dtype, str) else None,
        warnings=tuple(dict.fromkeys([*warnings, *map(str, doubts)])), doubts=tuple(doubts),
        part=part, spec=rope.spec if rope else _spec(config, model_type, encoding, window, where),
    )  # fmt: skip


@dataclass(frozen=True)
class _Known:
    """What is known of a checkpoint beside its config: the arguments of `detect`."""

    original_length: int | None
    prefer: Dialect | None
    origin: Origin | None


def _turned(
    flat: Mapping[str, Any],
    model_type: str,
    heads: Heads,
    window: Window,
    known: _Known,
    where: str,
    warnings: list[str],
    doubts: list[BadInput],
) -> tuple[Window, Rope]:
    """Read window and rope of the layers that reach far.

    Args:
        flat: the config with their rope.
        window: as the config's own key names it.

    Raises:
        BadInput: a value that no reader could use; the key is named.
    """
    if heads.turning is None or heads.head_dim is None:
        raise BadInput(f"{where} has no qk_rope_head_dim or no qk_nope_head_dim")
    block = read_rope_block(
        flat, where=where, model_type=model_type, prefer=known.prefer, warnings=warnings
    )
    origin = believed(known.origin, block, window.current, where, warnings)
    doubts += block.doubts
    length = known.original_length
    window = read_windows(flat, block, window, length, origin, where, warnings, doubts)
    rope = read_rope(flat, block, model_type, heads.turning, window, origin, where, warnings)
    doubts += check_sections(rope, where)
    if model_type in families.KNOWN:
        warnings += unread_words(flat, rope, model_type, where)
    if heads.turning < heads.head_dim:  # of latent attention
        rope = replace(rope, head_dim=heads.head_dim)
    return window, rope


def _architecture(config: Mapping[str, Any]) -> str:
    """Read the class that the checkpoint says it is of."""
    architectures = config.get("architectures") or ["unknown"]
    return str(architectures[0] if isinstance(architectures, list) else architectures)


def _decoder_type(config: Mapping[str, Any], where: str) -> str:
    """Read the model_type, and refuse a config that is no decoder's: one of pictures, say."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise BadInput(f"{where} has no model_type, so it is not a transformers config")
    if not model_type.isprintable() or len(model_type) > _LONGEST_NAME:
        raise BadInput(f"{where}: model_type is {shown(model_type, 40)}, which is no name")
    if config.get("is_encoder_decoder"):
        raise BadInput(f"{where}: {model_type} is an encoder-decoder, not a decoder")
    if (
        model_type not in families.KNOWN
        and any(key in config for key in _OF_PICTURES)
        and not any("vocab" in key for key in config)
        and not decoders_elsewhere(config, _LAYERS)
    ):
        raise BadInput(
            f"{where}: {model_type} reads pictures and has no vocab_size, so it is no decoder"
        )
    return model_type


def _one_rope(
    config: Mapping[str, Any], model_type: str, heads: Heads, where: str, warnings: list[str]
) -> Mapping[str, Any] | None:
    """Return the config with the rope of the far-reaching layers; None where it is not known."""
    if model_type in families.ROTARY_IN_CODE:
        return None
    words = [key for key in WORDS_OF_CODE if config.get(key) is not None]
    words += [key for key in _not_read(config) if key not in words]
    if words and model_type not in families.KNOWN:
        warnings.append(
            f"{where}: what the code of {model_type} makes of {', '.join(words)} is not known to "
            "ctxext, so the rope is unknown"
        )
        return None
    attention = config.get("attn_config")
    if isinstance(attention, dict) and attention.get("rope_theta") and "rope_theta" not in config:
        warnings.append(
            f"{where}: attn_config.rope_theta is read by transformers 4 and not by 5, so the rope "
            "is unknown"
        )
        return None
    thetas = _thetas_by_layer(config, model_type)
    if len(thetas) > 1 or 0 in thetas:
        warnings.append(
            f"{where}: {model_type} has a rope_theta for each layer: the rope is unknown"
        )
        return None
    for theta in thetas:  # one, of all layers
        held = {key: config[key] for key in _BLOCKS if isinstance(config.get(key), dict)}
        blocks = {key: {**block, "rope_theta": theta} for key, block in held.items() if block}
        config = {**config, **blocks, "rope_theta": theta}
    if model_type in FIXED_ALPHA and heads.turning is not None:
        config = _with_fixed_base(config, heads.turning, where)
    flat = far_rope(config, model_type, where, warnings)
    if flat is not None and form_of(model_type).layer_type is not None:
        warnings.append(
            f"{model_type} turns its windowed layers by a rope of their own, which stays: what is "
            "shown and scaled is that of the far-reaching layers"
        )
    return flat


def _not_read(config: Mapping[str, Any]) -> list[str]:
    """Name keys beside the rope's own that say something of it in a way of their class."""
    return [
        key
        for key, value in config.items()
        if key.startswith(("rope_", "orig_max_")) and key.isidentifier() and key not in _ROPE_KEYS
        and not isinstance(value, bool | None) and value != "default"
    ]  # fmt: skip


def _thetas_by_layer(config: Mapping[str, Any], model_type: str) -> set[float]:
    """Read the bases of a family that lists one for each layer; empty: it does not."""
    listed = config.get(THETA_BY_LAYER.get(model_type, ""))
    numbers = listed if isinstance(listed, list) else []
    return {float(t or 0) for t in numbers if t is None or isinstance(t, int | float)}


def _states_window(
    config: Mapping[str, Any], model_type: str, encoding: PositionEncoding | None
) -> bool:
    """Tell whether a config, or its class, states a window; one of a known rope has to."""
    if encoding in ROTARY and model_type in families.KNOWN - families.NO_WINDOW:
        return True
    return states_window(config, model_type)


def _of_length(
    config: Mapping[str, Any],
    window: Window | None,
    length: int | None,
    origin: Origin | None,
    where: str,
    warnings: list[str],
) -> Window | None:
    """Read the trained window of a checkpoint without a rope, where the config says another."""
    if window is not None:
        name_contradictions(config, window, where, warnings)
    if length is not None:
        if window is None:
            return Window(length, length, "--original-length", length)
        return replace(window, original=length)
    if window is None:
        return None
    origin = believed(origin, None, window.current, where, warnings)
    return window if origin is None else replace(window, original=origin.window, source=RECORDED)


def _spec(
    config: Mapping[str, Any],
    model_type: str,
    encoding: PositionEncoding | None,
    window: Window | None,
    where: str,
) -> Spec | None:
    """Say what a checkpoint without a rope was trained with, as methods are told."""
    if window is None or encoding is None or encoding in ROTARY:
        return None
    heads = first_of(config, HEADS, where)
    if encoding == "learned":
        return TableSpec(window.original, rows_before(config, model_type))
    if encoding == "alibi" and heads is not None:
        return AlibiSpec(heads, window.original)
    return WindowSpec(window.original)


def _as_its_class_reads(config: Mapping[str, Any], model_type: str) -> Mapping[str, Any]:
    """Put what a config's class calls by another name, or assumes, under the usual key."""
    key = families.WINDOW_KEY.get(model_type)
    if key is not None and config.get(key) is not None:
        stated = config.get("max_position_embeddings")
        config = {**config, "max_position_embeddings": config[key] if stated is None else stated}
    rows, stated = rows_in_window(config, model_type), config.get("max_position_embeddings")
    if rows and type(stated) is int and stated > rows:
        config = {**config, "max_position_embeddings": stated - rows}
    block = families.ROPE_WHEN_ABSENT.get(model_type)
    if block is not None and not any(isinstance(config.get(key), dict) for key in _BLOCKS):
        theta = config.get("rope_theta") if model_type in families.THETA_BESIDE_ABSENT else None
        config = {k: v for k, v in config.items() if k not in ("rope_theta", *_BLOCKS)}
        config["rope_parameters"] = block if theta is None else {**block, "rope_theta": theta}
    return config


def _with_fixed_base(config: Mapping[str, Any], turning: int, where: str) -> Mapping[str, Any]:
    """Put the base that a fixed `alpha` makes into the blocks, and over the one it is made of."""
    out = dict(config)
    for key in _BLOCKS:
        if key in config:
            out[key] = _with_alpha(config, key, turning, where)
            beside = config.get("rope_theta")
            if out[key] is not config[key] and config[key].get("rope_theta", beside) == beside:
                out["rope_theta"] = out[key]["rope_theta"]
    return out


def _with_alpha(config: Mapping[str, Any], key: str, head_dim: int, where: str) -> Any:
    """Put the base that a fixed `alpha` makes in place of a `dynamic` that follows no length."""
    block = config[key]
    if not isinstance(block, dict):
        return block
    rope_type = block.get("rope_type", block.get("type"))
    alpha = real(block, "alpha", where, [])
    if not rope_type_facts(rope_type).keeps_window or not alpha or alpha < 0 or head_dim <= 2:
        return block
    theta = real(block, "rope_theta", where, []) or real(config, "rope_theta", where, []) or 1e4
    kept = {name: value for name, value in block.items() if name not in ("alpha", "factor", "type")}
    try:
        theta *= alpha ** (head_dim / (head_dim - 2))
    except OverflowError:
        raise BadInput(f"{where}: {key}: alpha {alpha:g} makes no rope_theta") from None
    return {**kept, "rope_type": "default", "rope_theta": theta}


def _count(config: Mapping[str, Any], model_type: str, where: str) -> int:
    """Read how many layers there are."""
    blocks = config.get("layers_block_type") or config.get("hybrid_override_pattern")
    if model_type == "nemotron_h" and isinstance(blocks, list | str) and blocks:
        return len(blocks)  # its class takes no other number
    if model_type in families.TWO_ATTENTIONS_A_LAYER and config.get("num_layers") is not None:
        return first_of(config, ("num_layers",), where) or 0  # the other key counts attentions
    count = first_of(config, _LAYERS, where)
    if count is None:
        others = decoders_elsewhere(config, _LAYERS)
        said = f": what decodes is described under {', '.join(others)}, which ctxext does not read"
        raise BadInput(f"{where} has no num_hidden_layers{said if others else ''}")
    return count


def _encoding(
    config: Mapping[str, Any], model_type: str, count: int, where: str, warnings: list[str]
) -> PositionEncoding | None:
    """Name how positions are told, by `model_type` and telling keys; None = unknown."""
    if model_type == families.LAB:
        return _lab_word(config, where)
    if model_type in families.ALIBI or config.get("alibi") is True:
        return "alibi"
    if model_type in families.LEARNED:
        return "learned"
    if model_type in families.SINUSOIDAL:
        return "sinusoidal"
    if model_type in families.NO_ATTENTION:
        warnings.append(
            f"{model_type} has no attention, so there is no position encoding to extend and no "
            "KV cache that grows"
        )
        return "none"
    if model_type in families.RELATIVE:
        warnings.append(
            f"{model_type} tells positions by their distance (a relative bias), for which ctxext "
            "has no word"
        )
        return None
    if _turns_nowhere(config, model_type):
        return "none"
    return _rotary_word(config, model_type, count, where, warnings)


def _lab_word(config: Mapping[str, Any], where: str) -> PositionEncoding:
    """Read the word of ctxext's own decoder.

    Raises:
        BadInput: it is none of its five.
    """
    word = config.get("position_encoding", "rope")
    for known in ENCODINGS:
        if word == known:
            return known
    raise BadInput(
        f"{where}: position_encoding is {shown(word, 40)}, and there are {', '.join(ENCODINGS)}"
    )


def _turns_nowhere(config: Mapping[str, Any], model_type: str) -> bool:
    """Tell whether attention of a family that may rotate is told no positions at all."""
    if model_type in families.NO_ENCODING or config.get("position_embedding_type") == "nope":
        return True
    if model_type == "zamba2":
        return config.get("use_mem_rope") is not True
    if model_type == "granitemoehybrid":
        return config.get("position_embedding_type") != "rope"
    if model_type == "olmo_hybrid" and "rope_theta" in config:
        blocks = (config.get("rope_parameters"), config.get("rope_scaling"))
        thetas = [block.get("rope_theta") for block in blocks if isinstance(block, dict)]
        return config["rope_theta"] is None and not any(thetas)
    return False


def _rotary_word(
    config: Mapping[str, Any], model_type: str, count: int, where: str, warnings: list[str]
) -> PositionEncoding | None:
    everywhere = rotates_everywhere(config, model_type, count, where)
    if everywhere is not None:  # flags of single layers
        return "rope" if everywhere else "mixed"
    if model_type in families.NO_ROPE_IN_FULL_LAYERS:
        off = "sliding_window" in config and not config["sliding_window"]
        return "rope" if off and model_type in families.ROTATES_WITHOUT_WINDOW else "mixed"
    if model_type == "roformer":
        return "rope"
    partial = families.ROTARY_IN_CODE | families.LATENT | families.TURNS_PARTS
    if model_type in partial:
        return "partial-rope"
    if model_type in families.KNOWN:
        return "rope"
    turns = any(config.get(key) is not None for key in _ROPE_KEYS)
    how = "no key that it reads says where tokens sit"
    if turns:
        how = (
            "its rope keys are read as any family's"
            if states_window(config, model_type)
            else "its rope keys are not read, because no key that it reads states a window"
        )
    warnings.append(
        f"{where}: model_type '{model_type}' is not known to ctxext: {how}, and its layers and KV "
        "cache are unknown"
    )
    return "rope" if turns else None


def reads_alike_in_transformers_4(config: Mapping[str, Any], rope: Rope) -> bool:
    """Tell whether a reader of `rope_scaling` and `rope_theta` gets the rotation that we read."""
    old = {k: v for k, v in config.items() if k != "rope_parameters"}
    if isinstance(part := old.get(PART), dict):
        old[PART] = {k: v for k, v in part.items() if k != "rope_parameters"}
    try:
        position = detect(
            old, where="config.json", original_length=rope.spec.original_max_position_embeddings
        )
    except BadInput:  # what is left of the file says nothing that can be used
        return False
    return position.rope is not None and position.rope.sha256 == rope.sha256
