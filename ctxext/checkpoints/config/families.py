"""Facts by `model_type` that a config file does not say about itself, as tables.

Read from the modeling files of transformers 5.23.
"""

from typing import Any, Final

from ctxext.checkpoints.lab_decoder.model_type import MODEL_TYPE

LAB: Final = MODEL_TYPE
"""ctxext's own decoder, whose config says by which of five encodings it is told positions."""

# One plain rope block for all layers, under the usual names alone.
PLAIN_ROPE: Final = frozenset({"llama", "mistral", "qwen2", "qwen3"})

# `sliding_window` that transformers assumes when the key is absent (null means off).
SLIDING_WINDOW_WHEN_ABSENT: Final = {
    "afmoe": 1024, "cohere2": 4096, "cohere2_moe": 4096, "cwm": 8192, "exaone4": 4096,
    "exaone_moe": 4096, "flint": 513, "gemma2": 4096, "gemma3_text": 4096, "gemma3n_text": 512,
    "gpt_neo": 256, "recurrent_gemma": 2048,
    "gpt_oss": 128, "granite_swa": 128, "granitemoe_swa": 128, "kolibri1": 513,
    "ministral": 4096, "mistral": 4096, "olmo3": 4096, "qwen2": 4096,
    "qwen2_moe": 4096, "qwen3": 4096, "qwen3_moe": 4096, "vaultgemma": 4096,
}  # fmt: skip

# Its other names.
REACH_KEY: Final = {"gpt_neo": "window_size", "recurrent_gemma": "attention_window_size"}

# These slide only when `use_sliding_window` is true, from layer `max_window_layers` upwards.
SLIDES_BY_FLAG: Final = frozenset(
    {"qwen2", "qwen2_5_vl_text", "qwen2_moe", "qwen2_vl_text", "qwen3", "qwen3_moe"}
)
# These slide in every layer where their config names a window. Other classes that have no layout of
# their own pass over the key: measured in 5.23, by whether the last token's logits see the first.
SLIDES_WHERE_NAMED: Final = frozenset(
    {
        "doge", "ministral", "ministral3", "mistral", "mixtral", "phi3", "phi4_multimodal",
        "phimoe", "starcoder2",
    }
)  # fmt: skip
# A window of null means that no layer slides; the classes of others stop without a number.
WINDOW_MAY_BE_NULL: Final = SLIDES_BY_FLAG | {
    "mistral", "mixtral", "phi3", "phi4_multimodal", "phimoe", "starcoder2",
}  # fmt: skip
# A `sliding_window` in the config changes nothing: every layer attends to all.
IGNORES_SLIDING_WINDOW: Final = frozenset({"moshi"})

# head_dim that is not hidden_size / num_attention_heads when the key is absent.
HEAD_DIM_WHEN_ABSENT: Final = {
    "afmoe": 128, "cohere2_moe": 128, "cwm": 128, "ernie4_5": 128, "flint": 128, "gemma": 256,
    "gemma2": 256, "gemma3_text": 256, "gemma3n_text": 256, "glm": 128, "glm4": 128,
    "gpt_oss": 64, "helium": 128, "hy_v3": 128, "internlm3": 128, "iquestcoder": 128,
    "qwen3_vl_text": 128, "qwen3_vl_moe_text": 128,
    "jetmoe": 128, "kolibri1": 128, "llama4_text": 128, "minimax_m2": 128,
    "minimax_m3_vl_text": 128, "ministral3": 128, "nemotron_h": 128, "qwen3": 128,
    "qwen3_5_moe_text": 256, "qwen3_5_text": 256, "qwen3_next": 256, "seed_oss": 128,
    "solar_open": 128, "vaultgemma": 256,
}  # fmt: skip
# Zamba's attention reads its layer's input and the embeddings side by side.
DOUBLE_HEADS: Final = frozenset({"zamba", "zamba2"})

# Key-value heads when the key is absent; elsewhere there are as many as query heads.
KV_HEADS_WHEN_ABSENT: Final = {
    "bamba": 8, "bitnet": 5, "cwm": 8, "dots1": 32, "emu3_text_model": 8, "ernie4_5": 2,
    "ernie4_5_moe": 4, "exaone4": 32, "exaone_moe": 32, "falcon_h1": 8, "flint": 4, "gemma": 16,
    "gemma2": 4, "gemma3_text": 4, "gemma3n_text": 2, "glm": 2, "glm4": 2, "glm4_moe": 8,
    "gpt_oss": 8, "granite_swa": 4, "helium": 20, "hy_v3": 8, "internlm3": 2, "iquestcoder": 8,
    "jamba": 8, "jetmoe": 16, "kolibri1": 4, "lfm2": 8, "lfm2_moe": 8, "llama4_text": 8,
    "minimax": 8, "minimax_m2": 8, "minimax_m3_vl_text": 4, "ministral": 8, "ministral3": 8,
    "mistral": 8, "mixtral": 8, "mllama_text_model": 8, "nemotron_h": 8, "phi4_multimodal": 8,
    "phimoe": 8, "qwen2": 32, "qwen2_moe": 16, "qwen3": 32, "qwen3_5_moe_text": 2,
    "qwen3_5_text": 4, "qwen3_moe": 4, "qwen3_next": 2, "seed_oss": 8, "smollm3": 4,
    "qwen2_vl_text": 8, "qwen2_5_vl_text": 8, "qwen3_vl_text": 32, "qwen3_vl_moe_text": 16,
    "solar_open": 8, "stablelm": 32, "starcoder2": 2, "vaultgemma": 4, "zamba": 16,
}  # fmt: skip
# One key-value head for all query heads, unless the config says `multi_query: false`.
MULTI_QUERY: Final = frozenset({"falcon", "gpt_bigcode"})

# Latent attention: a layer keeps `kv_lora_rank` + `qk_rope_head_dim` numbers a token.
LATENT: Final = frozenset(
    {
        "axk1", "axk2", "bailing_hybrid", "deepseek_v2", "deepseek_v3", "deepseek_v32",
        "glm4_moe_lite", "glm_moe_dsa", "hy_v4", "kimi_linear", "longcat_flash", "minicpm3",
        "sarvam_mla", "youtu",
    }
)  # fmt: skip
TWO_ATTENTIONS_A_LAYER: Final = frozenset({"longcat_flash"})
# What they keep in the cache is not a key and a value for each head and layer, or is unlike in
# different layers.
CACHE_UNKNOWN: Final = frozenset(
    {
        "cpmant", "deepseek_v4", "dots3_note_text", "gemma3n_text", "gemma4_text",
        "gemma4_unified_text", "gpt_neo", "hrm_text", "inkling2_loop_text", "inkling2_text",
        "inkling_text", "mimo_v2_flash", "moshi", "openai-gpt", "qwen4_exp_text", "reformer", "xlm",
        "xlnet", "zaya",
    }
)  # fmt: skip

# `head_dim` stays None in their class, and a scaled rope multiplies it: Mistral's in transformers
# 4.52 to 4.57, the others' in 5.
NEEDS_HEAD_DIM: Final = frozenset(
    {"hunyuan_v1_dense", "hunyuan_v1_moe", "minimax", "ministral", "mistral", "mixtral"}
)

# The window's key in types that have no max_position_embeddings.
WINDOW_KEY: Final = {
    "bailing_hybrid": "model_max_length", "kimi_linear": "model_max_length",
    "rwkv": "context_length", "whisper": "max_target_positions",
}  # fmt: skip

# Another name of max_position_embeddings that the class takes as well.
OTHER_WINDOW_KEY: Final = {
    **dict.fromkeys(
        ("codegen", "ctrl", "gpt2", "gpt_bigcode", "gptj", "imagegpt", "openai-gpt"), "n_positions"
    ),
    "dbrx": "max_seq_len",
}
# Their class reads no max_position_embeddings; files state a length under one name or another.
READS_NO_WINDOW: Final = frozenset(
    {"bloom", "cpmant", "falcon_mamba", "mamba", "mamba2", "mpt", "recurrent_gemma", "xlnet",
     "xlstm"}
)  # fmt: skip
# Nothing in their config states a window.
NO_WINDOW: Final = frozenset({"recurrent_gemma"})

# Plain rotary encoding, of whole heads or a share of them.
ROTARY_TYPES: Final = frozenset(
    {
        "apertus", "apertus1p5_text", "arcee", "aria_text", "bamba", "bitnet", "cohere", "cwm",
        "dbrx", "diffllama", "doge", "dots1", "emu3_text_model", "ernie4_5", "ernie4_5_moe",
        "exaone", "falcon", "falcon_h1", "flex_olmo", "fuyu", "gemma", "gemma2", "gemma3_text",
        "gemma3n_text", "glm", "glm4", "glm4_moe", "gpt_neox", "gpt_neox_japanese", "gpt_oss",
        "granite", "granite_swa", "granitemoe", "granitemoe_swa", "granitemoeshared", "helium",
        "hrm_text", "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hyperclovax", "internlm3",
        "iquestcoder", "jais2", "jetmoe", "lfm2", "lfm2_moe", "llama", "minimax", "minimax_m2",
        "minimax_m3_vl_text", "ministral", "ministral3", "mistral", "mixtral",
        "mllama_text_model", "moshi", "nanochat", "nemotron", "olmo", "olmo2", "olmo3",
        "olmo_hybrid", "olmoe", "persimmon", "phi", "phi3", "phi4_multimodal", "phimoe", "qwen2",
        "qwen2_moe", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3", "qwen3_5_moe_text",
        "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl_text", "qwen3_vl_moe_text",
        "qwen4_exp_text", "recurrent_gemma", "sarvam_moe", "seed_oss", "solar_open", "stablelm",
        "starcoder2", "vaultgemma",
    }
)  # fmt: skip
# The rope that a class makes where its config has none.
ROPE_WHEN_ABSENT: Final[dict[str, dict[str, Any]]] = {
    "apertus": {
        "rope_type": "llama3", "rope_theta": 12e6, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
    "cwm": {
        "rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    },
    "gpt_oss": {
        "rope_type": "yarn", "rope_theta": 15e4, "factor": 32.0, "beta_fast": 32.0,
        "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 4096,
    },
    "ministral3": {
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "beta_fast": 32.0,
        "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 16384,
    },
}  # fmt: skip
# Of these, the class puts a base that stands alone into its own rope; the others pass over it.
THETA_BESIDE_ABSENT: Final = frozenset({"gpt_oss"})
# A rope for each kind of layer; of flat keys the class makes what ctxext does not read yet.
ROTARY_BY_LAYER_TYPE: Final = frozenset(
    {
        "deepseek_v4", "dory", "dots3_note_text", "gemma4_text", "gemma4_unified_text", "laguna",
        "lfm3", "mellum", "mimo_v2_flash", "modernbert-decoder", "zaya",
    }
)  # fmt: skip
# A share of a head turns, of types whose rope is not read.
TURNS_PARTS: Final = NO_WINDOW | ROTARY_BY_LAYER_TYPE - {
    "dory", "mellum", "modernbert-decoder",
}  # fmt: skip
# The flat keys are those of the full-attention layers; sliding ones have a theta of their own.
FLAT_ROPE_OF_FULL_LAYERS: Final = frozenset({"gemma3_text", "gemma3n_text", "olmo3"})

LEARNED: Final = frozenset(
    {
        "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "biogpt", "blenderbot",
        "blenderbot-small", "camembert", "data2vec-text", "electra", "ernie", "git", "gpt2",
        "gpt_bigcode", "gpt_neo", "imagegpt", "mbart", "megatron-bert", "mvp", "openai-gpt",
        "opt", "plbart", "prophetnet", "reformer", "rembert", "roberta", "roberta-prelayernorm",
        "roc_bert", "trocr", "whisper", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod",
    }
)  # fmt: skip
SINUSOIDAL: Final = frozenset({"ctrl", "marian", "pegasus", "xglm"})
# falcon says it in its config; mpt's `alibi: false` changes nothing in transformers.
ALIBI: Final = frozenset({"bloom", "mpt"})
# Attention without positions.
NO_ENCODING: Final = frozenset({"jamba", "kimi_linear", "nemotron_h", "zamba"})
# These rotate only where their config says so.
ROTATES_BY_FLAG: Final = frozenset({"granitemoehybrid", "zamba2"})
# No attention: state spaces and recurrent cells.
NO_ATTENTION: Final = frozenset({"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"})
# Distances enter the scores by learned or fixed terms, for which ctxext has no word.
RELATIVE: Final = frozenset(
    {"cpmant", "inkling2_loop_text", "inkling2_text", "inkling_text", "xlnet"}
)
# What tells positions was computed for the window and ends there, as a learned table does.
ENDS_WITH_WINDOW: Final = frozenset(
    {"codegen", "ctrl", "gptj", "marian", "mpt", "pegasus", "roformer"}
)
# Rotary without a rope block in the config; the fraction that rotates stands in other keys.
ROTARY_IN_CODE: Final = frozenset({"codegen", "gptj", "roformer"})
# Full-attention layers carry no position in code; nothing in the config says so.
NO_ROPE_IN_FULL_LAYERS: Final = frozenset(
    {
        "afmoe", "beam", "cohere2", "cohere2_moe", "cohere_compass_text", "exaone4",
        "exaone_moe", "flint", "kolibri1", "lara_mini",
    }
)  # fmt: skip
# Of those, these rotate everywhere where no layer slides.
ROTATES_WITHOUT_WINDOW: Final = frozenset({"exaone4", "exaone_moe", "kolibri1"})
# `no_rope_layers` says it, or every `no_rope_layer_interval`th layer does not rotate.
NO_ROPE_BY_INTERVAL: Final = frozenset({"llama4_text", "smollm3"})

KNOWN: Final = (
    ROTARY_TYPES | ROTARY_BY_LAYER_TYPE | ROTARY_IN_CODE | LEARNED | SINUSOIDAL | ALIBI
    | NO_ENCODING | ROTATES_BY_FLAG | NO_ATTENTION | RELATIVE | NO_ROPE_IN_FULL_LAYERS
    | NO_ROPE_BY_INTERVAL | LATENT | {LAB}
)  # fmt: skip
"""Every type of which the encoding is known; of others only what their config says is."""

# The head is the embedding where the config does not say (`tie_word_embeddings`).
TIED_WHEN_ABSENT: Final = frozenset(
    {
        "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "biogpt", "blenderbot",
        "blenderbot-small", "bloom", "camembert", "cohere", "cohere2", "cohere2_moe",
        "cohere_compass_text", "cpmant", "ctrl", "data2vec-text", "electra", "ernie", "ernie4_5",
        "ernie4_5_moe", "falcon", "falcon_mamba", "gemma", "gemma2", "gemma3_text",
        "gemma3n_text", "gemma4_text", "gemma4_unified_text", "gpt2", "gpt_bigcode", "gpt_neo",
        "gpt_neox_japanese", "granite_swa", "jetmoe", "lfm2", "lfm2_moe", "lfm3", "mamba",
        "marian", "mbart", "megatron-bert", "minicpm3", "modernbert-decoder", "mpt", "mvp",
        "openai-gpt", "opt", "pegasus", "plbart", "prophetnet", "recurrent_gemma", "roberta",
        "roberta-prelayernorm", "roc_bert", "roformer", "smollm3", "starcoder2", "trocr",
        "vaultgemma", "whisper", "xglm", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod",
        "youtu", "zamba", "zamba2", "zaya",
    }
)  # fmt: skip

# The trained window stands below what the config claims.
CLAIMS_MORE: Final = {("qwen3", 40960): 32768, ("qwen3_moe", 40960): 32768}


def trained_shorter(model_type: str, window: int) -> str | None:
    """Say that checkpoints of a family were trained on less than their config claims."""
    trained = CLAIMS_MORE.get((model_type, window))
    if trained is None:
        return None
    return (
        f"the config says {window}, and {model_type} checkpoints were trained at {trained}: "
        f"use --original-length {trained}"
    )
