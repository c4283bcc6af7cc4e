"""Read which layers attend to everything, which slide, and which keep no keys at all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ctxext.checkpoints.config import families
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.encodings.kinds import PositionEncoding
from ctxext.errors import BadInput
from ctxext.runs.numbers import whole

Attention = Literal["full", "sliding", "chunked", "linear"]
"""`linear`: no keys and values of the text are kept (linear attention, state space, convolution,
attention to pictures alone, MLP only)."""

_WORDS: dict[str, Attention | None] = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "mamba": "linear",
    "recurrent": "linear",
    "conv": "linear",
    "mlp": "linear",
    "moe": "linear",
    "cross_attention": "linear",  # to pictures, whose keys do not grow with the text
    "hybrid": "full",  # attention beside a state space, in one layer
    "hybrid_sliding": "sliding",
    # Attention to a chosen few of all tokens: its cache is its class's own.
    "indexed_attention": None,
    "deepseek_sparse_attention": None,
    "qwen_sparse_attention": None,
    "minimax_m3_sparse": None,
    "compressed_sparse_attention": None,
    "heavily_compressed_attention": None,
}
_PATTERN = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}  # Nemotron-H
_Words = list[str] | None


@dataclass(frozen=True)
class Layer:
    """One decoder layer; None where ctxext does not know.

    `window`: tokens it can look back when it slides or is chunked.
    """

    index: int
    position_encoding: PositionEncoding | None
    attention: Attention | None
    window: int | None


def read_layers(
    config: Mapping[str, Any],
    model_type: str,
    encoding: PositionEncoding | None,
    count: int,
    where: str,
    warnings: list[str],
) -> tuple[Layer, ...]:
    """Read attention, reach and encoding of each of `count` layers.

    Args:
        warnings: gets what a class assumes, and what is not known.

    Raises:
        BadInput: a layout that no reader could use; its key is named.
    """
    attentions = _attentions(config, model_type, count, where)
    if None in attentions and model_type in families.KNOWN:
        warnings.append(f"{where}: how the layers of {model_type} attend is not known to ctxext")
    reach = None
    if "sliding" in attentions:
        reach = _reach(config, model_type, where, warnings)
        if reach is None:
            attentions = ["full" if each == "sliding" else each for each in attentions]
    chunk = whole(config, "attention_chunk_size", where)
    flags = _flags(config, model_type, count, where)
    layers = []
    for index, attention in enumerate(attentions):
        layer_encoding: PositionEncoding | None = "none" if attention == "linear" else encoding
        if encoding == "mixed" and attention != "linear":
            rotates = attention != "full" if flags is None else flags[index]
            layer_encoding = "rope" if rotates else "none"
        window = {"sliding": reach, "chunked": chunk}.get(attention or "full")
        layers.append(Layer(index, layer_encoding, attention, window))
    return tuple(layers)


def _attentions(
    config: Mapping[str, Any], model_type: str, count: int, where: str
) -> list[Attention | None]:
    key = "layer_types" if config.get("layer_types") is not None else "layers_block_type"
    words: Any = config.get(key)
    if words is None or model_type == "mistral":  # as a part: its class ignores layer_types
        words = _derived(config, model_type, count, where)
    elif not isinstance(words, list) or len(words) != count:
        raise _wrong_length(words, key, count, where)
    if words is None:
        return [None] * count
    unknown = sorted({str(word) for word in words} - set(_WORDS))
    if unknown:
        raise BadInput(f"{where}: unknown {key} {printable(', '.join(unknown))}")
    attentions = [_WORDS[word] for word in words]
    if _never_slides(config, model_type):
        attentions = ["full" if each == "sliding" else each for each in attentions]
    return attentions


def _wrong_length(values: object, key: str, count: int, where: str) -> BadInput:
    if isinstance(values, list):
        return BadInput(f"{where}: {key} has {len(values)} entries for {count} layers")
    return BadInput(f"{where}: {key} has to be a list with an entry for each of {count} layers")


def _never_slides(config: Mapping[str, Any], model_type: str) -> bool:
    """Tell whether transformers drops the window, whatever layer_types says."""
    flag = config.get("use_sliding_window") is True
    return model_type in families.SLIDES_BY_FLAG and not flag


def _reach(
    config: Mapping[str, Any], model_type: str, where: str, warnings: list[str]
) -> int | None:
    """Read how many tokens sliding layers look back; None where the window is off."""
    key = families.REACH_KEY.get(model_type, "sliding_window")
    if key in config:
        return None if config[key] == 0 else whole(config, key, where)
    reach = families.SLIDING_WINDOW_WHEN_ABSENT.get(model_type)
    if reach:
        warnings.append(f"{where} has no {key}, and transformers assumes {reach} for {model_type}")
    return reach


def _flags(config: Mapping[str, Any], model_type: str, count: int, where: str) -> list[bool] | None:
    """Read which layers rotate, where a family says it layer by layer."""
    flags = config.get("no_rope_layers")  # 1 = rotates, 0 = does not
    if isinstance(flags, list) and len(flags) == count:
        return [bool(flag) for flag in flags]
    if flags:
        raise _wrong_length(flags, "no_rope_layers", count, where)
    if model_type in families.NO_ROPE_BY_INTERVAL:
        interval = whole(config, "no_rope_layer_interval", where) or 4
        return [(index + 1) % interval != 0 for index in range(count)]
    return None


def rotates_everywhere(
    config: Mapping[str, Any], model_type: str, count: int, where: str
) -> bool | None:
    """Tell whether no layer is left without rope; None where no layer-wise flags exist."""
    flags = _flags(config, model_type, count, where)
    return None if flags is None else all(flags)


def has_a_layout(model_type: str) -> bool:
    """Tell whether a family's class puts layers of several kinds in an order of its own."""
    return model_type in _LAYOUTS or model_type in _LAST_FULL


def _derived(config: Mapping[str, Any], model_type: str, count: int, where: str) -> _Words:
    """Derive the layout as its class does where the config has none; None = not known."""
    layout = _LAYOUTS.get(model_type)
    if layout is not None:
        return layout(config, count, where)
    if model_type in families.NO_ATTENTION:
        return ["mamba"] * count
    if model_type == "qwen3_moe":  # its class has no max_window_layers that counts
        return ["sliding_attention"] * count
    if model_type in families.SLIDES_BY_FLAG or model_type == "dots1":
        if config.get("max_window_layers") == 0:
            first = 0
        else:
            first = whole(config, "max_window_layers", where) or _LAST_FULL.get(model_type, 28)
        return ["sliding_attention" if i >= first else "full_attention" for i in range(count)]
    if model_type not in families.KNOWN or model_type in families.ROTARY_BY_LAYER_TYPE:
        return None
    slides = config.get("sliding_window") or (
        "sliding_window" not in config and model_type in families.SLIDING_WINDOW_WHEN_ABSENT
    )
    if slides and model_type not in families.IGNORES_SLIDING_WINDOW:
        return ["sliding_attention"] * count
    return ["full_attention"] * count


_LAST_FULL = {"dots1": 62}


def _every(
    step: int, key: str | None = None, *, others: str = "sliding_attention", first: bool = False
) -> Callable[[Mapping[str, Any], int, str], _Words]:
    """Put full attention in every `step`th layer (`key`: its name in the config), counted from
    one or from the `first` on, and `others` between."""

    def layout(config: Mapping[str, Any], count: int, where: str) -> _Words:
        period: int | None = step
        if key is not None and config.get(key) is not None:
            if isinstance(config[key], str):  # EXAONE's "LLLG": its class cannot read it either
                return None
            period = whole(config, key, where)
        shift = 0 if first else 1
        return [
            "full_attention" if (index + shift) % (period or step) == 0 else others
            for index in range(count)
        ]

    return layout


def _gpt_neo(config: Mapping[str, Any], count: int, where: str) -> _Words:
    """Read `attention_types`: [[["global", "local"], 12]] is the two, twelve times."""
    words = {"global": "full_attention", "local": "sliding_attention"}
    listed: list[Any] = []
    types = config.get("attention_types", [[["global", "local"], 12]])
    for item in types if isinstance(types, list) else []:
        match item:
            case [list(names), int(times)] if 0 <= times <= count:
                listed += names * times
            case _:
                return None
    if len(listed) != count or not all(isinstance(k, str) and k in words for k in listed):
        return None
    return [words[name] for name in listed]


def _llama4(config: Mapping[str, Any], count: int, where: str) -> _Words:
    flags = _flags(config, "llama4_text", count, where) or []
    return ["chunked_attention" if rotates else "full_attention" for rotates in flags]


def _smollm3(config: Mapping[str, Any], count: int, where: str) -> _Words:
    flags = _flags(config, "smollm3", count, where) or []
    slides = bool(config.get("use_sliding_window") and config.get("sliding_window"))
    return ["sliding_attention" if slides and not f else "full_attention" for f in flags]


def _jamba(config: Mapping[str, Any], count: int, where: str) -> _Words:
    period = whole(config, "attn_layer_period", where) or 8
    offset = config.get("attn_layer_offset", 4)
    return ["attention" if i % period == offset else "mamba" for i in range(count)]


def _listed(
    key: str, *, otherwise: str, absent: str, word: str = "attention"
) -> Callable[..., _Words]:
    """Let the layers whose numbers stand at `key` attend; `absent`: all layers, without the key."""

    def layout(config: Mapping[str, Any], count: int, where: str) -> _Words:
        listed = config.get(key)
        if listed is None:
            return [absent] * count
        if not isinstance(listed, list) or not all(isinstance(i, int) for i in listed):
            raise BadInput(f"{where}: {key} has to be a list of layer numbers")
        return [word if i in listed else otherwise for i in range(count)]

    return layout


def _kimi(config: Mapping[str, Any], count: int, where: str) -> _Words:
    linear = config.get("linear_attn_config")
    full = linear.get("full_attn_layers") if isinstance(linear, dict) else None
    if not isinstance(full, list):
        return None
    return ["attention" if i + 1 in full else "linear_attention" for i in range(count)]


def _mllama(config: Mapping[str, Any], count: int, where: str) -> _Words:
    """Read which layers attend to pictures alone; its class has its own list without the key."""
    key, text = "cross_attention_layers", "full_attention"
    listed = list(range(3, 40, 5)) if config.get(key) is None else config[key]
    return _listed(key, otherwise=text, absent=text, word="cross_attention")(
        {key: listed}, count, where
    )


def _nemotron_h(config: Mapping[str, Any], count: int, where: str) -> _Words:
    pattern = config.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or len(pattern) != count or set(pattern) - set(_PATTERN):
        return None
    return [_PATTERN[letter] for letter in pattern]


def _recurrent_gemma(config: Mapping[str, Any], count: int, where: str) -> _Words:
    blocks = config.get("block_types", ["recurrent", "recurrent", "attention"])
    if not isinstance(blocks, list) or not blocks or set(map(str, blocks)) - set(_WORDS):
        return None
    words = {"attention": "sliding_attention"}
    return [words.get(blocks[i % len(blocks)], "recurrent") for i in range(count)]


def _zamba(config: Mapping[str, Any], count: int, where: str) -> _Words:
    period = whole(config, "attn_layer_period", where) or 6
    offset = config.get("attn_layer_offset", 4)
    rest = ["hybrid" if i % period == offset else "mamba" for i in range(max(0, count - 3))]
    return ["mamba", "mamba", "hybrid", *rest][:count]


def _zamba2(config: Mapping[str, Any], count: int, where: str) -> _Words:
    hybrid = config.get("hybrid_layer_ids")
    if not isinstance(hybrid, list):
        return None
    return ["hybrid" if i in hybrid else "mamba" for i in range(count)]


def _beam(config: Mapping[str, Any], count: int, where: str) -> _Words:
    words = _every(6)(config, count, where) or []
    return [*words[:-1], "full_attention"]


def _flint(config: Mapping[str, Any], count: int, where: str) -> _Words:
    return [
        "full_attention" if i < 2 or i % 4 == 1 or i == count - 1 else "sliding_attention"
        for i in range(count)
    ]


def _qwen4(config: Mapping[str, Any], count: int, where: str) -> _Words:
    return ["linear_attention" if (i + 1) % 4 else "indexed_attention" for i in range(count)]


def _minimax(config: Mapping[str, Any], count: int, where: str) -> _Words:
    return ["linear_attention" if i % 2 else "full_attention" for i in range(count)]


def _all_of(word: str) -> Callable[[Mapping[str, Any], int, str], _Words]:
    return lambda config, count, where: [word] * count


def _unknown(config: Mapping[str, Any], count: int, where: str) -> _Words:
    return None


_LAYOUTS: dict[str, Callable[[Mapping[str, Any], int, str], _Words]] = {
    "afmoe": _every(4, "global_attn_every_n_layers"),
    "axk2": _all_of("indexed_attention"),
    "bailing_hybrid": _every(6, "layer_group_size", others="linear_attention"),
    "bamba": _listed("attn_layer_indices", otherwise="mamba", absent="mamba"),
    "beam": _beam,
    "cohere2": _every(4, "sliding_window_pattern"),
    "cohere2_moe": _unknown,  # the first dense layers follow a pattern of their own
    "cohere_compass_text": _unknown,
    "cwm": _every(4, first=True),
    "deepseek_v32": _all_of("indexed_attention"),
    "exaone4": _every(4, "sliding_window_pattern"),
    "exaone_moe": _every(4, "sliding_window_pattern"),
    "falcon_h1": _all_of("hybrid"),
    "flint": _flint,
    "gemma2": _every(2),
    "gemma3_text": _every(6, "sliding_window_pattern"),
    "gemma3n_text": _every(5),
    "glm_moe_dsa": _all_of("indexed_attention"),
    "gpt_neo": _gpt_neo,
    "gpt_oss": _every(2),
    "granite_swa": _every(4, first=True),
    "granitemoe_swa": _every(4, first=True),
    "granitemoehybrid": _all_of("mamba"),
    "hy_v4": _all_of("indexed_attention"),
    "inkling2_loop_text": _unknown,
    "inkling2_text": _unknown,
    "inkling_text": _unknown,
    "jamba": _jamba,
    "kimi_linear": _kimi,
    "kolibri1": _every(5),
    "lara_mini": _unknown,
    "lfm2": _listed("full_attn_idxs", otherwise="conv", absent="attention"),
    "lfm2_moe": _unknown,  # its class demands layer_types
    "llama4_text": _llama4,
    "minimax": _minimax,
    "minimax_m3_vl_text": _unknown,
    "mllama_text_model": _mllama,
    "nemotron_h": _nemotron_h,
    "olmo3": _every(4),
    "olmo_hybrid": _every(4, others="linear_attention"),
    "qwen3_5_moe_text": _every(4, "full_attention_interval", others="linear_attention"),
    "qwen3_5_text": _every(4, "full_attention_interval", others="linear_attention"),
    "qwen3_next": _every(4, "full_attention_interval", others="linear_attention"),
    "qwen4_exp_text": _qwen4,
    "recurrent_gemma": _recurrent_gemma,
    "smollm3": _smollm3,
    "vaultgemma": _every(2),
    "xlnet": _unknown,
    "zamba": _zamba,
    "zamba2": _zamba2,
}
