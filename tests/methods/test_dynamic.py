import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.methods.dynamic import dynamic, dynamic_theta

SPEC = RopeSpec(64, 10_000.0, 2048)


def test_by_hand():
    # s = 4 at l = 4 L: 4 * 4 - 3 = 13, and 10000 * 13 ** (64 / 62)
    assert dynamic_theta(SPEC, 4.0, 8192) == pytest.approx(10_000 * 13 ** (64 / 62), rel=1e-12)
    assert dynamic_theta(SPEC, 4.0, 2048) == 10_000.0
    assert dynamic(SPEC, 8192).max_position_embeddings == 2048


def test_live_module_at_lengths_below_the_target():
    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0},
    )
    for length in (1024, 3000, 8192):
        module = LlamaRotaryEmbedding(config)
        module(torch.zeros(1, 1, 1), torch.tensor([[length - 1]]))
        expected = inv_freq_of(RopeSpec(64, dynamic_theta(SPEC, 4.0, length), 2048))
        assert module.inv_freq.tolist() == pytest.approx(expected, rel=1e-6)
