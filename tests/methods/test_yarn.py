import math

import numpy as np
import pytest

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods.yarn import yarn

LLAMA2 = RopeSpec(rotary_dim=128, rope_theta=10_000.0, original_max_position_embeddings=4096)


def test_by_hand():
    # low = 20, high = 46; pair 32 turns 0.01 rad per token and stands 12/26 up the ramp
    got = yarn(LLAMA2, 32_768)
    assert got.inv_freq[20] == inv_freq_of(LLAMA2)[20]
    assert got.inv_freq[32] == pytest.approx(0.01 * (14 / 26 + 12 / 26 / 8), rel=1e-12)
    assert got.inv_freq[46] == pytest.approx(10_000 ** (-92 / 128) / 8, rel=1e-12)
    assert got.attention_factor == pytest.approx(1.2079441541679836, rel=1e-12)


@pytest.mark.parametrize("head_dim", [8, 32, 64, 128, 256])
@pytest.mark.parametrize("theta", [1e4, 1e6, 1e7])
@pytest.mark.parametrize("factor", [2, 8, 64])
def test_against_the_equation(head_dim, theta, factor):
    """Equations 17-23 with the authors' ramp over the pair index, vectorised, float64."""
    window, d = 4096, head_dim
    i = np.arange(d // 2, dtype=np.float64)
    plain = theta ** (-2 * i / d)

    def dim_with_turns(turns):
        return d / 2 * np.log(window / (2 * np.pi * turns)) / np.log(theta)

    low = max(np.floor(dim_with_turns(32)), 0)
    high = min(np.ceil(dim_with_turns(1)), d - 1)
    gamma = 1 - np.clip((i - low) / max(high - low, 1e-3), 0, 1)
    expected = plain * gamma + plain / factor * (1 - gamma)
    got = yarn(RopeSpec(d, theta, window), window * factor)
    assert np.allclose(got.inv_freq, expected, rtol=1e-12)
    # The paper's table 1: sqrt(1/t) = 0.1 ln s + 1
    assert got.attention_factor == pytest.approx(0.1 * math.log(factor) + 1, rel=1e-15)


def test_defaults_stay_out_of_the_config():
    block = yarn(LLAMA2, 32_768).rope_block
    assert block == {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 4096,
    }
    told = yarn(LLAMA2, 32_768, beta_fast=16, attention_factor=1.0, truncate=False)
    assert told.rope_block["beta_fast"] == 16.0
    assert told.rope_block["attention_factor"] == 1.0
    assert told.rope_block["truncate"] is False
    assert "beta_slow" not in told.rope_block


@pytest.mark.parametrize(
    "wrong", [{"beta_fast": 0}, {"beta_fast": 1, "beta_slow": 2}, {"attention_factor": 0}]
)
def test_yarn_refuses_parameters_that_contradict(wrong):
    with pytest.raises(BadInput):
        yarn(LLAMA2, 8192, **wrong)
