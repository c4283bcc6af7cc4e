"""Small random models of any family of transformers, to measure what their classes do."""

import torch

_SIZES = {
    "vocab_size": 64, "hidden_size": 64, "n_embd": 64, "d_model": 64, "intermediate_size": 64,
    "moe_intermediate_size": 32, "ffn_hidden_size": 64, "decoder_ffn_dim": 64, "ffn_dim": 64,
    "n_inner": 64, "num_hidden_layers": 8, "n_layer": 8, "n_layers": 8, "num_layers": 8,
    "decoder_layers": 8, "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "decoder_attention_heads": 4, "num_key_value_heads": 2, "n_routed_experts": 4,
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "n_group": 1, "topk_group": 1, "moe_topk": 2, "shared_expert_intermediate_size": 32,
    "expert_ffn_hidden_size": 32, "kv_lora_rank": 24, "q_lora_rank": 20, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16, "v_head_dim": 16, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "vocab_size_per_layer_input": 64, "mamba_chunk_size": 32,
    "mamba_d_state": 16,
}  # fmt: skip


# What a class asks of its sizes, beyond that they are small.
_OF_A_TYPE = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "dots3_note_text": {
        "index_n_heads": 4, "index_head_dim": 16, "shared_experts_intermediate_size": 32,
        "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 20,
        "swa_kv_lora_rank": 24, "swa_head_dim": 24, "swa_qk_nope_head_dim": 16,
        "swa_v_head_dim": 16,
    },
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 4]]},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "kimi_linear": {"linear_num_heads": 4, "linear_head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 4, "num_dense_layers": 1},
    "longcat_flash": {"num_attention_heads": 4, "head_dim": 8},
    "mimo_v2_flash": {"head_dim": 24},
    "ministral": {"head_dim": 16},
    "qwen4_exp_text": {
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64,
        "indexer_compress_ratio": 4,
    },
    "phi4_multimodal": {
        "vision_config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
                          "num_attention_heads": 2},
        "audio_config": {"hidden_size": 32, "intermediate_size": 32, "num_blocks": 1,
                         "num_attention_heads": 2},
    },
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def tiny_config(model_type, **changes):
    """The family's config class with its defaults, but small."""
    from transformers import CONFIG_MAPPING

    plain = CONFIG_MAPPING[model_type]().get_text_config(decoder=True)
    known = plain.to_dict()
    sizes = {k: v for k, v in _SIZES.items() if k in known or hasattr(plain, k)}
    if "kv_lora_rank" in sizes:
        sizes["num_key_value_heads"] = 4  # latents are shared, keys are not
    elif known.get("head_dim") is not None:
        sizes["head_dim"] = 16
    sizes |= _OF_A_TYPE.get(plain.model_type, {})
    config = type(plain)(**{**sizes, **changes})
    if hasattr(config, "is_decoder"):
        config.is_decoder = True
    return config


def as_file(config):
    """What a config.json of this config says: no nulls but those that mean "off"."""
    document = {k: v for k, v in config.to_dict().items() if not k.startswith("_")}
    return {k: v for k, v in document.items() if v is not None or k == "sliding_window"}


def cached_numbers(config, tokens, make=None):
    """Numbers in the cache of each layer after one forward pass; None where the class has none.

    Args:
        make: the class, where transformers names none for a config.
    """
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = (make or AutoModelForCausalLM.from_config)(config).eval()
    with torch.no_grad():
        out = model(torch.arange(3, 3 + tokens)[None] % 60, use_cache=True)
    name = "cache" if hasattr(out, "cache") else "past_key_values"  # before transformers 5.24
    cache = getattr(out, name, None)
    if cache is None:
        return None
    cache = getattr(cache, "self_attention_cache", cache)
    kept = []
    for layer in cache.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        kept.append(0 if keys is None else keys.numel() + values.numel())
    return kept
