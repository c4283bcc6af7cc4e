import torch
from hypothesis import given, settings, strategies as st
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from ctxext.encodings.rope import RopeSpec, inv_freq_of, rotated

INV_FREQ = inv_freq_of(RopeSpec(8, 10_000.0, 64))


def test_as_transformers_turns():
    q, k = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    at = torch.arange(5)
    angles = (at[:, None] * torch.tensor(INV_FREQ)).repeat(1, 2)[None]
    want = apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
    for got, theirs in zip((rotated(q, at, INV_FREQ), rotated(k, at, INV_FREQ)), want, strict=True):
        assert torch.allclose(got, theirs, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 2**31))
def test_scores_know_the_distance_alone_and_norms_stay(m, n, shift, seed):
    q, k = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(seed)).double()
    turned_q, turned_k = (rotated(x, torch.tensor([at]), INV_FREQ) for x, at in ((q, m), (k, n)))
    moved_q, moved_k = (
        rotated(x, torch.tensor([at + shift]), INV_FREQ) for x, at in ((q, m), (k, n))
    )
    assert torch.allclose(turned_q @ turned_k.T, moved_q @ moved_k.T, atol=1e-8)
    assert torch.allclose(turned_q.norm(), q.norm())
    assert torch.equal(turned_q[..., 8:], q[..., 8:])  # dims that do not turn
