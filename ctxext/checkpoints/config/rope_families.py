"""What transformers' classes assume about rope and window, by `model_type`, as tables.

Read from transformers 5.23 by building each class's config and rotary module.
"""

from typing import Final

DEFAULT_THETA: Final = {
    "apertus": 12e6, "bailing_hybrid": 6e6, "bitnet": 5e5, "cohere": 5e5, "cwm": 1e6,
    "ernie4_5": 5e5, "ernie4_5_moe": 5e5, "flex_olmo": 5e5, "gpt_oss": 15e4,
    "helium": 1e5, "hy_v3": 11_158_840.0, "lfm2": 1e6, "lfm2_moe": 1e6, "llama4_text": 5e5,
    "longcat_flash": 1e7, "minimax": 1e6, "minimax_m2": 5e6, "minimax_m3_vl_text": 5e6,
    "mixtral": 1e6, "phimoe": 1e6, "smollm3": 2e6, "solar_open": 1e6,
    "gemma3_text": 1e6, "gemma3n_text": 1e6, "olmo3": 5e5, "exaone": 5e5, "sarvam_moe": 8e6,
    "emu3_text_model": 1e6, "mllama_text_model": 5e5, "qwen2_vl_text": 1e6,
    "qwen2_5_vl_text": 1e6, "qwen3_vl_text": 5e5, "qwen3_vl_moe_text": 5e5,
}  # fmt: skip
DEFAULT_THETA_OTHERWISE: Final = 10_000.0

# The base has another name there, and the usual one is not read.
THETA_KEY: Final = {"gpt_neox": "rotary_emb_base", "gpt_neox_japanese": "rotary_emb_base"}
# So has the rotated share of a head, at the top level.
PARTIAL_KEY: Final = {"gpt_neox": "rotary_pct", "gpt_neox_japanese": "rotary_pct"}
# Another key that says the same in dims, where the share is not said.
ROTARY_DIMS_KEY: Final = {"minimax_m2": "rotary_dim"}
PARTIAL_WHEN_ABSENT: Final = {
    "bamba": 0.5, "fuyu": 0.5, "glm": 0.5, "glm4": 0.5, "glm4_moe": 0.5, "gpt_neox": 0.25,
    "nemotron": 0.5, "persimmon": 0.5, "phi": 0.5, "qwen3_5_moe_text": 0.25, "qwen3_5_text": 0.25,
    "qwen3_next": 0.25, "recurrent_gemma": 0.5, "stablelm": 0.25,
}  # fmt: skip

# These turn whole heads: `partial_rotary_factor` is ignored, and under a scaled rope the class
# cannot run with one, because it makes fewer cosines than there are dims.
TURNS_WHOLE_HEADS: Final = frozenset(
    {
        "afmoe", "apertus", "arcee", "aria_text", "bitnet", "cohere", "cohere2", "cohere2_moe",
        "cwm", "dbrx", "diffllama", "doge", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4",
        "exaone_moe", "falcon", "falcon_h1", "flex_olmo", "flint", "gemma", "gemma2", "gpt_oss",
        "granite", "granite_swa", "granitemoe", "granitemoe_swa", "granitemoehybrid",
        "granitemoeshared", "helium", "hrm_text", "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3",
        "hyperclovax", "jais2", "jetmoe", "lfm2", "lfm2_moe", "llama", "llama4_text", "minimax",
        "ministral", "ministral3", "mistral", "mixtral", "moshi", "nanochat", "olmo", "olmo2",
        "olmo_hybrid", "olmoe", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss",
        "smollm3", "starcoder2", "vaultgemma", "zamba2",
    }
)  # fmt: skip

# `original_max_position_embeddings` of the class, which counts where the top level has none,
# whatever the rope block says.
ORIGINAL_WHEN_ABSENT: Final = {"phi3": 4096, "phi4_multimodal": 4096}

# These take longrope and no other scaling, and what they call yarn or su is longrope.
LONGROPE_ONLY: Final = frozenset({"phi3", "phi4_multimodal"})
LONGROPE_NAMES: Final = ("longrope", "yarn", "su")

# transformers 4 takes a `rope_scaling` of `type` and `factor` there and refuses any other.
TWO_FIELDS: Final = frozenset({"olmo", "olmo2"})

# cos and sin are multiplied by `short_mscale` or `long_mscale`, and the short factors always count.
OWN_MSCALE: Final = frozenset({"phimoe"})

# Keys of a rope block that one class reads beside those of its rope_type.
OWN_KEYS: Final[dict[str, frozenset[str]]] = {
    "ministral3": frozenset({"llama_4_scaling_beta"}),
    "phimoe": frozenset({"short_mscale", "long_mscale"}),
    **{
        name: frozenset({"mrope_section", "mrope_interleaved"})
        for name in (
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "qwen3_vl_text",
            "qwen3_vl_moe_text",
            "qwen3_5_text",
            "qwen3_5_moe_text",
        )
    },
}

# `max_position_embeddings` of the class.
WINDOW_WHEN_ABSENT: Final = {
    "afmoe": 16384, "apertus": 65536, "arcee": 4096, "bamba": 262144, "biogpt": 1024,
    "bitnet": 2048, "codegen": 2048, "cohere": 8192, "cohere2": 8192, "dbrx": 2048,
    "deepseek_v2": 2048, "deepseek_v3": 4096, "diffllama": 2048, "doge": 2048, "dots1": 2048,
    "ernie4_5": 131072, "ernie4_5_moe": 131072, "exaone4": 2048, "falcon": 2048,
    "falcon_h1": 8192, "flex_olmo": 4096, "gemma": 8192, "gemma2": 8192, "glm": 131072,
    "glm4": 131072, "glm4_moe": 131072, "gpt2": 1024, "gpt_bigcode": 1024, "gpt_neo": 2048,
    "gpt_neox": 2048, "gpt_neox_japanese": 2048, "gpt_oss": 131072, "gptj": 2048,
    "granite": 2048, "granitemoe": 2048, "granitemoeshared": 2048, "helium": 4096,
    "hunyuan_v1_dense": 2048, "hunyuan_v1_moe": 2048, "hy_v3": 131072, "jetmoe": 4096,
    "lfm2": 128000, "lfm2_moe": 128000, "llama": 2048, "minimax": 131072,
    "minimax_m2": 196608, "ministral": 131072, "ministral3": 262144, "mistral": 131072,
    "mixtral": 131072, "nanochat": 2048, "nemotron": 4096, "olmo": 2048, "olmo2": 2048,
    "olmoe": 4096, "openai-gpt": 512, "opt": 2048, "persimmon": 16384, "phi": 2048,
    "phi3": 4096, "phimoe": 131072, "qwen2": 32768, "qwen2_moe": 32768, "qwen3": 32768,
    "qwen3_moe": 32768, "qwen3_next": 32768, "seed_oss": 524288, "smollm3": 32768,
    "solar_open": 131072, "stablelm": 4096, "starcoder2": 4096, "vaultgemma": 8192,
    "xglm": 2048,
}  # fmt: skip

# Under `dynamic` an `alpha` in the block is a fixed base, rope_theta * alpha ** (d / (d - 2)).
FIXED_ALPHA: Final = frozenset({"hunyuan_v1_dense", "hunyuan_v1_moe"})

# The class computes with the trained window whatever the type, and finds it in the block alone.
NEEDS_ORIGINAL: Final = frozenset({"ministral3", "phimoe"})

# A base for each layer, which counts in place of the block's; 0: that layer does not turn.
THETA_BY_LAYER: Final = {"granite_swa": "layer_rope_theta", "granitemoe_swa": "layer_rope_theta"}

# `global_head_dim` of the class: of the layers that attend to everything.
FAR_HEAD_DIM_WHEN_ABSENT: Final = {"gemma4_text": 512, "gemma4_unified_text": 512}
