"""How a checkpoint encodes position, read from its config.json alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ctxext.checkpoints import families
from ctxext.checkpoints.numbers import whole
from ctxext.checkpoints.rope_block import Dialect, read_rope_block
from ctxext.checkpoints.rotation import Rope, read_rope
from ctxext.checkpoints.windows import Origin, Window, believed, claimed_window, read_windows
from ctxext.encodings.kinds import ROTARY, PositionEncoding
from ctxext.errors import BadInput

Attention = Literal["full", "sliding", "chunked", "linear"]
# Of layers, heads and widths. We keep a value for each, and no decoder comes near.
_MOST = 2**18
_LAYER_TYPES: dict[str, Attention] = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "mamba": "linear",
    "conv": "linear",
    "hybrid": "linear",
}


@dataclass(frozen=True)
class Layer:
    """One decoder layer. `window`: tokens it can look back when it slides or is chunked."""

    index: int
    position_encoding: PositionEncoding
    attention: Attention
    window: int | None


@dataclass(frozen=True)
class Position:
    """Everything that a config says about where tokens sit.

    `doubts`: where it contradicts itself; transformers reads it, and so do we, but no window is
    extended on such a ground.
    """

    model_type: str
    architecture: str
    encoding: PositionEncoding
    window: Window
    rope: Rope | None
    layers: tuple[Layer, ...]
    kv_heads: int
    head_dim: int
    dtype: str | None
    warnings: tuple[str, ...]
    doubts: tuple[BadInput, ...] = ()


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
        config: the parsed file.
        where: its path, for messages.
        original_length: the trained window, where the config is known to say something else.
        prefer: which rope dialect counts where the two disagree.
        origin: the unscaled base, where a `ctxext.json` beside the config tells it.

    Raises:
        BadInput: not a decoder, or a value that no reader could use; the key is named.
    """
    warnings: list[str] = []
    doubts: list[BadInput] = []
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise BadInput(f"{where} has no model_type, so it is not a transformers config")
    if isinstance(config.get("text_config"), dict):
        raise BadInput(
            f"{where} nests the decoder in text_config ({model_type} is multimodal), "
            "which ctxext does not read yet"
        )
    if config.get("is_encoder_decoder"):
        raise BadInput(f"{where}: {model_type} is an encoder-decoder, not a decoder")

    count = _first_of(config, ("num_hidden_layers", "n_layer", "num_layers", "n_layers"), where)
    if count is None:
        raise BadInput(f"{where} has no num_hidden_layers")
    head_dim, kv_heads = _heads(config, model_type, where)
    encoding = _encoding(config, model_type)
    window = claimed_window(config, model_type, where, warnings)
    rope = None
    if encoding in ROTARY and model_type not in families.ROTARY_IN_CODE:
        block = read_rope_block(
            config, where=where, model_type=model_type, prefer=prefer, warnings=warnings
        )
        origin = believed(origin, block, window.current, where, warnings)
        doubts += block.doubts
        window = read_windows(
            config, block, window, original_length, origin, where, warnings, doubts
        )
        rope = read_rope(config, block, model_type, head_dim, window, origin, where, warnings)
        if rope.spec.rotary_dim < head_dim and encoding == "rope":
            encoding = "partial-rope"
    elif original_length is not None:
        window = replace(window, original=original_length)
    layers = _layers(config, model_type, encoding, count, where, warnings)
    if not isinstance(dtype := config.get("dtype", config.get("torch_dtype")), str):
        dtype = None
    architectures = config.get("architectures") or ["unknown"]
    return Position(
        model_type=model_type,
        architecture=str(architectures[0] if isinstance(architectures, list) else architectures),
        encoding=encoding,
        window=window,
        rope=rope,
        layers=layers,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype,
        warnings=tuple(dict.fromkeys([*warnings, *map(str, doubts)])),
        doubts=tuple(doubts),
    )


def _first_of(config: Mapping[str, Any], keys: tuple[str, ...], where: str) -> int | None:
    """A size of the model under the first of its names that is there."""
    for key in keys:
        size = whole(config, key, where, most=_MOST)
        if size is not None:
            return size
    return None


def _heads(config: Mapping[str, Any], model_type: str, where: str) -> tuple[int, int]:
    """(head_dim, key-value heads), checked against each other."""
    heads = _first_of(config, ("num_attention_heads", "n_head", "n_heads"), where)
    hidden = _first_of(config, ("hidden_size", "n_embd", "d_model"), where)
    if heads is None or hidden is None:
        raise BadInput(f"{where} has no num_attention_heads or no hidden_size")
    head_dim = whole(config, "head_dim", where, most=_MOST)
    head_dim = head_dim or families.HEAD_DIM_WHEN_ABSENT.get(model_type)
    if head_dim is None:
        if hidden % heads:
            raise BadInput(
                f"{where}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}, "
                "and there is no head_dim"
            )
        head_dim = hidden // heads
    kv_heads = whole(config, "num_key_value_heads", where) or heads
    if heads % kv_heads:
        raise BadInput(
            f"{where}: num_key_value_heads {kv_heads} does not divide num_attention_heads {heads}"
        )
    return head_dim, kv_heads


def _encoding(config: Mapping[str, Any], model_type: str) -> PositionEncoding:
    """The word for how positions are told, from `model_type` and telling keys."""
    attention = config.get("attn_config")
    if model_type in families.ALIBI or config.get("alibi") is True:
        return "alibi"
    if isinstance(attention, dict) and attention.get("alibi"):
        return "alibi"
    if model_type == "mpt" or model_type in families.LEARNED:
        return "learned"
    if model_type in families.SINUSOIDAL:
        return "sinusoidal"
    if model_type in families.NO_ENCODING or config.get("position_embedding_type") == "nope":
        return "none"
    flags = config.get("no_rope_layers")
    if isinstance(flags, list) and flags and not all(flags):  # 1 = rotates, 0 = does not
        return "mixed"
    if model_type in families.NO_ROPE_IN_FULL_LAYERS:
        return "mixed"
    if model_type in families.ROTARY_IN_CODE:
        return "partial-rope"
    return "rope"


def _layers(
    config: Mapping[str, Any],
    model_type: str,
    encoding: PositionEncoding,
    count: int,
    where: str,
    warnings: list[str],
) -> tuple[Layer, ...]:
    """Attention kind, reach and encoding of every layer."""
    if "sliding_window" in config:
        reach = whole(config, "sliding_window", where)
    else:
        reach = families.SLIDING_WINDOW_WHEN_ABSENT.get(model_type)
        if reach:
            warnings.append(
                f"{where} has no sliding_window, and transformers assumes {reach} for {model_type}"
            )
    chunk = whole(config, "attention_chunk_size", where)
    types = config.get("layer_types")
    kinds: list[Attention]
    if types is not None and model_type != "mistral":  # Mistral's class ignores layer_types
        if not isinstance(types, list) or len(types) != count:
            said = len(types) if isinstance(types, list) else types
            raise BadInput(f"{where}: layer_types has {said} entries for {count} layers")
        unknown = sorted({str(t) for t in types} - set(_LAYER_TYPES))
        if unknown:
            raise BadInput(f"{where}: unknown layer_types {', '.join(unknown)}")
        kinds = [_LAYER_TYPES[t] for t in types]
    elif model_type in families.SLIDES_BY_FLAG:
        zero = config.get("max_window_layers") == 0
        first = 0 if zero else whole(config, "max_window_layers", where) or 28
        slides = config.get("use_sliding_window") is True and reach is not None
        kinds = ["sliding" if slides and i >= first else "full" for i in range(count)]
    else:
        kinds = ["sliding" if reach else "full"] * count
    if model_type in families.SLIDES_BY_FLAG and config.get("use_sliding_window") is not True:
        # transformers drops the window then, whatever layer_types says.
        kinds = ["full" if kind == "sliding" else kind for kind in kinds]
    flags = config.get("no_rope_layers")
    layers = []
    for index, kind in enumerate(kinds):
        own: PositionEncoding = encoding
        if encoding == "mixed":
            rotates = kind != "full"
            if isinstance(flags, list) and index < len(flags):
                rotates = bool(flags[index])
            own = "rope" if rotates else "none"
        window = {"sliding": reach, "chunked": chunk}.get(kind)
        layers.append(Layer(index, own, kind, window))
    return tuple(layers)


def reads_alike_in_transformers_4(config: Mapping[str, Any], rope: Rope) -> bool:
    """Whether a reader of `rope_scaling` and `rope_theta` gets the rotation that we read."""
    old = {k: v for k, v in config.items() if k != "rope_parameters"}
    position = detect(
        old, where="config.json", original_length=rope.spec.original_max_position_embeddings
    )
    return position.rope is not None and position.rope.sha256 == rope.sha256
