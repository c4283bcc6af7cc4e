"""config.json in any state: a right reading, a valid document, or one sentence."""

import json

import pytest
from hypothesis import given, strategies as st

from ctxext.api.inspect import inspect
from ctxext.checkpoints.config.patch import plan_patch
from support.fuzzing import answers, as_text, broken, broken_bytes, fuzzed

_SIZES = {
    "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 8,
    "num_key_value_heads": 2, "vocab_size": 1000, "torch_dtype": "bfloat16",
}  # fmt: skip
_LISTS = {"short_factor": [1.0] * 16, "long_factor": [1.5] * 16}
# Real files of their families, made small.
CONFIGS = [
    {"model_type": "llama", **_SIZES, "max_position_embeddings": 131072, "rope_theta": 500000.0,
     "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    {"model_type": "qwen2", **_SIZES, "max_position_embeddings": 32768, "rope_theta": 1e6,
     "use_sliding_window": False, "sliding_window": 131072, "max_window_layers": 28,
     "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}},
    {"model_type": "mistral", **_SIZES, "max_position_embeddings": 32768, "sliding_window": 4096,
     "rope_theta": 10000.0, "head_dim": None, "max_sequence_length": 8192,
     "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    {"model_type": "qwen3", **_SIZES, "max_position_embeddings": 40960, "head_dim": 128,
     "layer_types": ["full_attention"] * 4, "rope_scaling": None,
     "rope_parameters": {"rope_type": "default", "rope_theta": 1000000}},
    {"model_type": "phi3", **_SIZES, "max_position_embeddings": 131072, "rope_theta": 10000.0,
     "original_max_position_embeddings": 4096, "rope_scaling": {"type": "longrope", **_LISTS}},
    {"model_type": "phimoe", **_SIZES, "max_position_embeddings": 131072, "rope_theta": 10000.0,
     "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 4096, **_LISTS,
                      "short_mscale": 1.24, "long_mscale": 1.25}},
    {"model_type": "ministral3", **_SIZES, "max_position_embeddings": 262144,
     "rope_parameters": {"rope_type": "yarn", "type": "yarn", "factor": 16.0, "mscale": 1.0,
                         "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384,
                         "rope_theta": 1e6, "beta_fast": 32.0, "beta_slow": 1.0,
                         "llama_4_scaling_beta": 0.1}},
    {"model_type": "gpt_neox", **_SIZES, "max_position_embeddings": 2048, "rotary_pct": 0.25,
     "rotary_emb_base": 10000},
    {"model_type": "llama", **_SIZES, "max_position_embeddings": 4096, "max_sequence_length": 16384,
     "rope_scaling": {"factor": 4.0, "type": "linear"},
     "dual_chunk_attention_config": {"original_max_position_embeddings": 2048}},
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("config")


def no_constant(word):
    raise AssertionError(f"{word} in a JSON document")


def looked_at(folder, text):
    """Inspect a folder that holds this config.json, and hold what it says to its promise."""
    (folder / "config.json").write_bytes(text)
    inspection, said = answers(inspect, str(folder), target=2**20)
    if said is not None:
        return
    document = json.dumps(inspection.to_dict())
    json.loads(document, parse_constant=no_constant)  # NaN and Infinity are no JSON
    position = inspection.position
    if (window := position.stated_window) is not None:
        assert 0 < window.original <= window.current < 2**31
    if position.rope is not None and position.rope.inv_freq is not None:
        assert len(position.rope.inv_freq) == position.rope.spec.rotary_dim // 2
        assert all(f > 0 for f in position.rope.inv_freq)
        assert position.rope.attention_factor > 0
    for method in ("yarn", "llama3", "ntk", "dynamic"):
        answers(
            plan_patch,
            inspection.opened.config,
            position,
            method=method,
            target=2**20,
            parameters={},
            sliding_window=None,
        )


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c["model_type"])
def test_the_files_themselves_are_read(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    _, said = answers(inspect, str(folder))
    assert said is None


@fuzzed
@given(config=st.sampled_from(CONFIGS).flatmap(broken))
def test_a_config_with_values_that_are_none(folder, config):
    looked_at(folder, as_text(config).encode("utf-8", "surrogatepass"))


@fuzzed
@given(text=st.sampled_from(CONFIGS).map(lambda c: json.dumps(c).encode()).flatmap(broken_bytes))
def test_a_config_with_bytes_that_are_none(folder, text):
    looked_at(folder, text)
