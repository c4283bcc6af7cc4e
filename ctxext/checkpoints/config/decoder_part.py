"""Find the decoder in the config of a multimodal checkpoint, where it stands in `text_config`."""

from collections.abc import Mapping
from typing import Any, Final

from ctxext.checkpoints.config.families import KNOWN
from ctxext.checkpoints.config.windows import WINDOW_KEYS
from ctxext.errors import BadInput

PART: Final = "text_config"

# The decoder of each multimodal type, where its `text_config` does not say: transformers 5.23.
DECODER_OF: Final = {
    "aria": "aria_text", "aya_vision": "cohere2", "cohere2_vision": "cohere2",
    "cohere_compass": "cohere_compass_text", "dots3_note": "dots3_note_text",
    "emu3": "emu3_text_model", "exaone4_5": "exaone4", "fast_vlm": "qwen2", "fuyu": "persimmon",
    "gemma3": "gemma3_text", "gemma3n": "gemma3n_text", "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text", "got_ocr2": "qwen2", "idefics2": "mistral",
    "idefics3": "llama", "internvl": "qwen2", "janus": "llama", "kimi_k25": "deepseek_v3",
    "lfm2_vl": "lfm2", "lfm3_vl": "lfm3", "lighton_ocr": "qwen3", "llama4": "llama4_text",
    "llava": "llama", "llava_next": "llama", "llava_next_video": "llama",
    "llava_onevision": "qwen2", "mistral3": "mistral", "mllama": "mllama_text_model",
    "moss_transcribe_diarize": "qwen3", "ovis2": "qwen2", "paligemma": "gemma",
    "perception_lm": "llama", "qwen2_5_vl": "qwen2_5_vl_text", "qwen2_audio": "qwen2",
    "qwen2_vl": "qwen2_vl_text", "qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text",
    "qwen3_vl": "qwen3_vl_text", "qwen3_vl_moe": "qwen3_vl_moe_text",
    "qwen4_exp": "qwen4_exp_text", "smolvlm": "llama", "video_llava": "llama",
    "vipllava": "llama", "voxtral": "llama",
}  # fmt: skip
# What its class takes where `text_config` leaves it out, as files of transformers 4 do: they state
# what differs from the class. (hidden_size, num_attention_heads, num_hidden_layers,
# max_position_embeddings), transformers 5.23.
_SIZES: Final = {
    "aria_text": (4096, 32, 32, 2048), "cohere2": (8192, 64, 40, 8192),
    "deepseek_v3": (7168, 128, 61, 4096), "emu3_text_model": (4096, 32, 32, 9216),
    "gemma": (3072, 16, 28, 8192), "gemma3_text": (2304, 8, 26, 131072),
    "gemma3n_text": (2048, 8, 35, 32768), "gemma4_text": (2304, 8, 30, 131072),
    "lfm2": (2560, 32, 32, 128000), "llama": (4096, 32, 32, 2048),
    "llama4_text": (5120, 40, 48, 131072), "mistral": (4096, 32, 32, 131072),
    "mllama_text_model": (4096, 32, 40, 131072), "qwen2": (4096, 32, 32, 32768),
    "qwen2_5_vl_text": (8192, 64, 80, 32768), "qwen2_vl_text": (8192, 64, 80, 32768),
    "qwen3": (4096, 32, 32, 32768), "qwen3_5_moe_text": (2048, 16, 40, 32768),
    "qwen3_5_text": (4096, 16, 32, 32768), "qwen3_vl_moe_text": (2048, 16, 24, 128000),
    "qwen3_vl_text": (4096, 32, 32, 128000),
}  # fmt: skip
_SIZE_KEYS: Final = (
    "hidden_size", "num_attention_heads", "num_hidden_layers", "max_position_embeddings",
)  # fmt: skip
# What a part for pictures or sound does not state.
_READS_TOKENS: Final = ("vocab_size", *WINDOW_KEYS)
# Files of transformers 4 hold the decoder's keys beside those of the other parts.
FLAT: Final = frozenset({"qwen2_vl", "qwen2_5_vl"})


def class_type(config: Mapping[str, Any]) -> Any:
    """Return the model_type by which transformers chooses the class of a whole file, not of a part.

    AutoConfig makes Ministral of a Mistral whose layers are not all alike (since 4.57).
    """
    model_type = config.get("model_type")
    return "ministral" if model_type == "mistral" and "layer_types" in config else model_type


def decoder_part(config: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], str | None]:
    """Return the keys that describe the decoder, and under which key of the file they stand.

    Returns:
        The config itself and None, where the checkpoint is a decoder and nothing else.

    Raises:
        BadInput: `text_config` is there and is no object.
    """
    model_type, part = config.get("model_type"), config.get(PART)
    outer = model_type if isinstance(model_type, str) else ""  # which is refused later
    if part is None:
        if outer in FLAT:
            return {**config, "model_type": DECODER_OF[outer]}, None
        return {**config, "model_type": class_type(config)}, None
    if not isinstance(part, dict):
        raise BadInput(f"{where}: {PART} has to be an object")
    if outer in KNOWN and outer not in DECODER_OF:
        raise BadInput(
            f"{where}: model_type {outer} is a decoder by itself, and {PART} describes another",
            f"remove {PART}, or write the model_type of the whole",
        )
    inner = dict(part)
    # Left out, or that of the whole: some files have it so.
    if inner.get("model_type") in (None, outer) and outer in DECODER_OF:
        inner["model_type"] = DECODER_OF[outer]
    for key in ("dtype", "torch_dtype", "architectures", "quantization_config"):
        if key in config:
            inner.setdefault(key, config[key])
    return inner, PART


def decoders_elsewhere(
    config: Mapping[str, Any], layers: tuple[str, ...], above: str = ""
) -> list[str]:
    """Name the keys of parts, or of parts of those, that have layers and read tokens: `llm_config`.

    Args:
        layers: keys under which a part says how many layers it has.
        above: the part that `config` is, with a dot.
    """
    names: list[str] = []
    for key, part in config.items():
        if not isinstance(part, dict) or not key.isidentifier():
            continue
        has = [any(part.get(name) for name in keys) for keys in (layers, _READS_TOKENS)]
        if all(has):
            names.append(f"{above}{key}")
        elif not above:
            names += decoders_elsewhere(part, layers, f"{key}.")
    return names


def with_left_out(part: Mapping[str, Any], where: str, warnings: list[str]) -> Mapping[str, Any]:
    """Fill in the sizes that a `text_config` leaves to its class.

    Args:
        warnings: gets a word on each.
    """
    model_type = str(part.get("model_type"))
    sizes = dict(zip(_SIZE_KEYS, _SIZES.get(model_type, ()), strict=False))
    left_out = {key: size for key, size in sizes.items() if key not in part}
    if left_out:
        said = ", ".join(f"{key} {size}" for key, size in left_out.items())
        warnings.append(
            f"{where}: {PART} has no {', '.join(left_out)}; what transformers assumes for "
            f"{model_type} is taken: {said}"
        )
    return {**part, **left_out}


def stated_part(config: Mapping[str, Any], part: str | None) -> Mapping[str, Any]:
    """Return the decoder's keys as the file states them, which `with_decoder_part` puts back."""
    return config if part is None else config[part]


def with_decoder_part(
    config: Mapping[str, Any], part: str | None, decoder: Mapping[str, Any]
) -> dict[str, Any]:
    """Put the changed keys of a decoder back where they stood."""
    if part is None:
        return dict(decoder)
    return {**config, part: dict(decoder)}
