"""What a config file does not say about itself: facts by `model_type`, as tables.

Read from the modeling files of transformers 5.23.
"""

from typing import Final

# Extended by ctxext: one plain rope block for all layers, read alike by every engine.
EXTENDABLE: Final = frozenset({"llama", "mistral", "qwen2", "qwen3"})

# `sliding_window` that transformers assumes when the key is absent (null means off).
SLIDING_WINDOW_WHEN_ABSENT: Final = {"mistral": 4096}

# These slide only when `use_sliding_window` is true, from layer `max_window_layers` upwards.
SLIDES_BY_FLAG: Final = frozenset({"qwen2", "qwen3", "qwen2_moe", "qwen3_moe"})

# head_dim that is not hidden_size / num_attention_heads when the key is absent.
HEAD_DIM_WHEN_ABSENT: Final = {"qwen3": 128, "qwen3_moe": 128, "gemma": 256, "gemma2": 256}

# `head_dim` stays None in their class of transformers 4.52 to 4.57, where yarn multiplies it.
NEEDS_HEAD_DIM: Final = frozenset({"mistral"})

LEARNED: Final = frozenset(
    {"gpt2", "gpt_bigcode", "gpt_neo", "openai-gpt", "imagegpt", "opt", "biogpt", "git", "xlm"}
)
SINUSOIDAL: Final = frozenset({"xglm", "ctrl"})
ALIBI: Final = frozenset({"bloom"})  # mpt and falcon say it in their config
NO_ENCODING: Final = frozenset(
    {
        "falcon_mamba", "jamba", "mamba", "mamba2", "nemotron_h", "rwkv", "xlstm", "zamba",
        "zamba2", "granitemoehybrid",
    }
)  # fmt: skip
# Rotary without a rope block in the config; the fraction that rotates stands in other keys.
ROTARY_IN_CODE: Final = frozenset({"gptj", "codegen"})
# Full-attention layers carry no position in code; nothing in the config says so.
NO_ROPE_IN_FULL_LAYERS: Final = frozenset({"cohere2", "exaone4"})

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
CLAIMS_MORE: Final = {("qwen3", 40960): 32768}
