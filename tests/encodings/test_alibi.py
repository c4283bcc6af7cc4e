import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from ctxext.encodings.alibi import AlibiSpec, bias, slopes_of


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 6, 8, 12, 14, 16, 25, 32, 71, 112])
def test_slopes_are_those_of_bloom_and_mpt(heads):
    ours = torch.tensor(slopes_of(AlibiSpec(heads, 64)))
    bloom = build_alibi_tensor(torch.ones(1, 3), heads, torch.float32)  # slope times key position
    assert torch.allclose(bloom[:, 0, 1], ours, rtol=1e-6)
    mpt = build_mpt_alibi_tensor(heads, 3, alibi_bias_max=8)  # -slope times distance to the end
    assert torch.allclose(mpt[:, 0, -1] - mpt[:, 0, -2], ours, rtol=1e-6)


def test_another_steepest_slope_is_mpt_s():
    ours = torch.tensor(slopes_of(AlibiSpec(6, 64, steepest=12)))
    mpt = build_mpt_alibi_tensor(6, 3, alibi_bias_max=12)
    assert torch.allclose(mpt[:, 0, -1] - mpt[:, 0, -2], ours, rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(0, 5000))
def test_the_bias_falls_with_distance_and_knows_nothing_else(heads, start):
    slopes = slopes_of(AlibiSpec(heads, 64))
    at = torch.arange(8)
    got = bias(slopes, at + start, at + start)
    assert got.shape == (heads, 8, 8)
    assert torch.equal(got, bias(slopes, at, at))  # of distances alone
    assert (got[:, 7].diff(dim=-1) > 0).all()  # nearer keys get more
    assert (got.diagonal(dim1=1, dim2=2) == 0).all()


def test_fewer_slopes_than_heads_never():
    for heads in range(1, 200):
        assert len(set(slopes_of(AlibiSpec(heads, 64)))) == heads
