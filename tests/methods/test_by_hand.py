"""One number worked out by hand for each method, with its derivation."""

import math

import pytest

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.methods import METHODS

LLAMA2 = RopeSpec(128, 10_000.0, 4096)
FOUR = RopeSpec(4, 100.0, 512)  # pairs that turn 1 and 1/10 rad a token


def test_ntk_by_parts():
    # pair 32 turns 0.01 rad a token: 4096 / 628.32 = 6.5189 turns; (6.5189 - 1) / 31 = 0.17803
    got = METHODS["ntk-by-parts"](LLAMA2, 32768)
    turns = 40.96 / (2 * math.pi)
    kept = (turns - 1) / 31
    assert kept == pytest.approx(0.17803, abs=1e-5)
    assert got.inv_freq[32] == pytest.approx(0.01 * (kept + (1 - kept) / 8), rel=1e-12)
    assert got.inv_freq[0] == 1.0  # 652 turns
    assert got.inv_freq[63] == pytest.approx(inv_freq_of(LLAMA2)[63] / 8, rel=1e-12)
    assert got.attention_factor == 1.0
    block = got.rope_block
    assert block["short_factor"] == block["long_factor"]
    assert block["long_factor"][63] == pytest.approx(8, rel=1e-12)
    assert (block["attention_factor"], block["factor"]) == (1.0, 8.0)
    assert block["original_max_position_embeddings"] == 4096
    # vLLM and SGLang read the factor under these names
    assert block["short_mscale"] == block["long_mscale"] == 1.0


def test_yarn_ramps_elsewhere():
    """The paper's ramp and the code's are two methods: pair 36 keeps 0.46 or 0.20 of its speed."""
    base = inv_freq_of(LLAMA2)[36]
    code, paper = (METHODS[name](LLAMA2, 32768).inv_freq[36] / base for name in
                   ("yarn", "ntk-by-parts"))  # fmt: skip
    assert (code, paper) == (pytest.approx(0.46, abs=0.01), pytest.approx(0.20, abs=0.01))


def test_longrope():
    got = METHODS["longrope"](FOUR, 2048, long_factor=[1, 5])
    assert got.inv_freq == [1.0, pytest.approx(0.02, rel=1e-15)]
    # sqrt(1 + ln 4 / ln 512) = sqrt(1 + 2 / 9), left out of the file: every reader computes it
    assert got.attention_factor == pytest.approx(math.sqrt(11) / 3, rel=1e-15)
    assert "attention_factor" not in got.rope_block
    assert got.rope_block["short_factor"] == [1.0, 1.0]
    own = METHODS["longrope"](FOUR, 2048, long_factor=[1, 5], attention_factor=1)
    assert own.rope_block["attention_factor"] == 1.0
    assert own.rope_block["long_mscale"] == 1.0


def test_resonance():
    # s = 2: pair 0 turns 81 times in 512 tokens and stays, 2 pi tokens, rounded to 6. Pair 1 turns
    # 8 times: between the pairs that turn 32 times (0.40, rounded down: 0) and once (1.91, up: 2)
    # it stands half-way: 0.1 (1/2 + 1/2 / 2) = 0.075, 83.8 tokens, rounded to 84
    got = METHODS["resonance"](FOUR, 1024)
    assert got.inv_freq == pytest.approx([2 * math.pi / 6, 2 * math.pi / 84], rel=1e-15)
    assert got.attention_factor == pytest.approx(1 + 0.1 * math.log(2), rel=1e-15)
    assert got.rope_block["attention_factor"] == got.attention_factor


def test_cope():
    # of three pairs to clip the masks are 1, 1/2 and 0, which is written as a factor of 1e9
    spec = RopeSpec(8, 10_000.0, 512)
    got = METHODS["cope"](spec, 1024, n=3, rope_theta=10_000)
    assert got.inv_freq == pytest.approx([1, 0.1, 0.005, 1e-12], rel=1e-12)
    assert got.rope_block["long_factor"] == pytest.approx([1, 1, 2, 1e9], rel=1e-12)
    # base 160000 for 10000: pair 1 turns 160000 ** (-1 / 4) = 1 / 20
    raised = METHODS["cope"](spec, 1024, n=2, rope_theta=160_000)
    assert raised.inv_freq[1] == pytest.approx(1 / 20, rel=1e-12)
    assert raised.rope_theta == 10_000
    # without n: wavelengths 6.3, 63, 628 and 6283 tokens; two complete no turn in 512
    assert METHODS["cope"](spec, 1024, rope_theta=10_000).parameters["n"] == 2


def test_p_rope():
    # 3/4 of 4 pairs are 3; the last has a factor of 1e9
    got = METHODS["p-rope"](RopeSpec(8, 10_000.0, 512), 1024)
    assert got.inv_freq == pytest.approx([1, 0.1, 0.01, 1e-12], rel=1e-12)
    assert got.rope_block["long_factor"] == [1.0, 1.0, 1.0, 1e9]


def test_abf():
    got = METHODS["abf"](FOUR, 2048, rope_theta=400)
    assert got.inv_freq == pytest.approx([1, 1 / 20], rel=1e-15)
    assert got.rope_block == {"rope_type": "default"}


def test_dual_chunk():
    got = METHODS["dual-chunk"](LLAMA2, 32768)
    assert got.inv_freq == inv_freq_of(LLAMA2)
    assert got.beside == {
        "dual_chunk_attention_config": {
            "chunk_size": 3072,
            "local_size": 512,
            "original_max_position_embeddings": 4096,
        }
    }
    assert got.rope_block == {"rope_type": "default"}
    assert got.max_position_embeddings == 32768


def test_none():
    got = METHODS["none"](LLAMA2, 32768)
    assert got.inv_freq == inv_freq_of(LLAMA2)
    assert (got.rope_theta, got.max_position_embeddings) == (10_000.0, 4096)


def test_the_critical_pair_of_ntk():
    # the last of 2 pairs divided by 4: 100 * 4 ** (4 / 2); of 4 pairs pair 2: 1e4 * 4 ** (8 / 4)
    assert METHODS["ntk"](FOUR, 2048, critical_pair=1).rope_theta == pytest.approx(1600)
    got = METHODS["ntk"](RopeSpec(8, 10_000.0, 512), 2048, critical_pair=2)
    assert got.rope_theta == pytest.approx(160_000, rel=1e-12)
    assert got.inv_freq[2] == pytest.approx(0.01 / 4, rel=1e-12)


def test_the_critical_pair_of_yarn():
    # Llama 2: theory's is 46 (45.03 rounded up), which turns 4096 * 10000 ** (-92 / 128) / 2 pi
    # = 0.8686 times; asked for 40, it is a beta_slow of 2.0614
    got = METHODS["yarn"](LLAMA2, 32768, critical_pair=40)
    base = inv_freq_of(LLAMA2)
    assert got.rope_block["beta_slow"] == pytest.approx(4096 * base[40] / (2 * math.pi), rel=1e-9)
    assert got.rope_block["beta_slow"] == pytest.approx(2.0614, abs=1e-4)
    assert "critical_pair" not in got.rope_block
    assert got.inv_freq[40] == pytest.approx(base[40] / 8, rel=1e-12)
    # between 20 and 40 the ramp is a straight line in the pair's index
    assert got.inv_freq[30] == pytest.approx(base[30] * (1 / 2 + 1 / 16), rel=1e-12)
