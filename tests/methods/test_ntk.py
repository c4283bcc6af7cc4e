import pytest

from ctxext.encodings.rope import RopeSpec
from ctxext.errors import BadInput
from ctxext.methods.ntk import ntk

LLAMA2 = RopeSpec(128, 10_000.0, 4096)


@pytest.mark.parametrize(
    ("factor", "theta"), [(2, 20221), (4, 40890), (8, 82685), (16, 167199), (32, 338097)]
)
def test_bases_by_hand(factor, theta):
    # 10000 * factor ** (128 / 126)
    assert ntk(LLAMA2, 4096 * factor).rope_theta == pytest.approx(theta, rel=1e-4)


def test_alpha_beyond_the_factor():
    assert ntk(LLAMA2, 16384, alpha=8).rope_theta == ntk(LLAMA2, 32768).rope_theta
    assert ntk(LLAMA2, 16384, alpha=8).max_position_embeddings == 16384


def test_ntk_refuses_shrinking_and_single_pairs():
    with pytest.raises(BadInput, match="alpha"):
        ntk(LLAMA2, 16384, alpha=0.5)
    with pytest.raises(BadInput, match="two rotary pairs"):
        ntk(RopeSpec(2, 10_000.0, 512), 1024)
