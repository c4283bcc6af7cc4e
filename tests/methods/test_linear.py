import pytest

from ctxext.encodings.rope import RopeSpec
from ctxext.methods.linear import linear


def test_by_hand():
    # theta 10000 and 4 dims: pairs turn 1 and 0.01 rad per token, an eighth of that at x8
    got = linear(RopeSpec(4, 10_000.0, 512), 4096)
    assert got.inv_freq == pytest.approx([1 / 8, 0.01 / 8], rel=1e-15)
    assert got.attention_factor == 1
    assert got.rope_block == {"rope_type": "linear", "factor": 8.0}
