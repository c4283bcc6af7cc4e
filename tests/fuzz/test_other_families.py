"""Configs of families that ctxext does not extend, broken: layers and cache, or one sentence."""

import json
import math

from hypothesis import given, strategies as st

from ctxext.checkpoints.config.detect import detect
from support.fuzzing import answers, as_text, broken, fuzzed

SIZES = {"num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 4096}  # fmt: skip
LATENT = {"kv_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16}
CONFIGS = [
    SIZES | {"model_type": "gemma2", "sliding_window": 64, "rope_theta": 1e4},
    SIZES | {"model_type": "cohere2", "sliding_window_pattern": 2, "sliding_window": 64},
    SIZES | {"model_type": "qwen3_next", "full_attention_interval": 2, "rope_theta": 1e4},
    SIZES | {"model_type": "llama4_text", "no_rope_layers": [1, 0, 1, 0], "num_key_value_heads": 4,
             "attention_chunk_size": 64},
    SIZES | {"model_type": "smollm3", "no_rope_layer_interval": 2},
    SIZES | {"model_type": "jamba", "attn_layer_period": 2, "attn_layer_offset": 1},
    SIZES | {"model_type": "bamba", "attn_layer_indices": [1, 3]},
    SIZES | {"model_type": "nemotron_h", "hybrid_override_pattern": "M-*E"},
    SIZES | LATENT | {"model_type": "deepseek_v3"},
    SIZES | LATENT | {"model_type": "kimi_linear", "model_max_length": 512,
                      "linear_attn_config": {"full_attn_layers": [2], "kda_layers": [1, 3, 4]}},
    SIZES | {"model_type": "zamba2", "hybrid_layer_ids": [1], "use_mem_rope": True},
    SIZES | {"model_type": "recurrent_gemma", "block_types": ["recurrent", "attention"]},
    {"model_type": "gpt_neo", "num_layers": 4, "num_heads": 4, "hidden_size": 64,
     "max_position_embeddings": 512, "window_size": 16, "attention_types": [[["global"], 4]]},
    {"model_type": "falcon", "num_hidden_layers": 4, "hidden_size": 64, "num_attention_heads": 4,
     "multi_query": True, "alibi": False, "new_decoder_architecture": False},
    {"model_type": "dbrx", "n_layers": 4, "d_model": 64, "n_heads": 4, "max_seq_len": 512,
     "attn_config": {"kv_n_heads": 2, "rope_theta": 5e5}},
    {"model_type": "mamba2", "num_hidden_layers": 4, "hidden_size": 64, "num_heads": 8},
    SIZES | {"model_type": "gemma3_text", "sliding_window": 64, "layer_types": ["full_attention",
             "sliding_attention"] * 2, "rope_parameters": {
                 "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                 "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
]  # fmt: skip


@fuzzed
@given(document=st.sampled_from(CONFIGS).flatmap(broken))
def test_configs_of_other_families(document):
    position, said = answers(detect, json.loads(as_text(document)), where="config.json")
    if said is not None:
        return
    assert position.layers
    for layer in position.layers:
        assert layer.window is None or layer.window > 0
    assert position.kept is None or position.kept >= 0
    if position.rope is not None and position.rope.inv_freq is not None:
        assert all(math.isfinite(f) for f in position.rope.inv_freq)
    assert all("\n" not in warning for warning in position.warnings)


def test_the_whole_configs_are_read():
    for document in CONFIGS:
        assert detect(document, where="config.json").layers
