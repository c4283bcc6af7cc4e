import torch
from hypothesis import given, settings, strategies as st
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from ctxext.encodings.sinusoidal import SinusoidalSpec, inv_freq_of, shift, sinusoids

SPEC = SinusoidalSpec(width=16, base=10_000.0, window=64)


def test_as_transformers_has_them():
    # Marian keeps all sines before all cosines.
    want = MarianSinusoidalPositionalEmbedding(50, 16).create_weight()
    ours = sinusoids(SPEC, torch.arange(50))
    got = torch.cat([ours[:, 0::2], ours[:, 1::2]], dim=1)
    assert torch.allclose(got.float(), want.float(), atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100_000), st.integers(-5000, 5000))
def test_a_shift_is_a_rotation_whatever_the_position(position, distance):
    at = torch.tensor([position, position + distance])
    before, after = sinusoids(SPEC, at)
    matrix = shift(SPEC, distance, before)
    assert torch.allclose(before @ matrix, after, atol=1e-9)
    assert torch.allclose(matrix @ matrix.T, torch.eye(16).double(), atol=1e-12)
    assert torch.allclose(torch.linalg.det(matrix), torch.tensor(1.0).double())


def test_interpolated_positions_are_those_between():
    at = torch.arange(40)
    assert torch.equal(sinusoids(SPEC, at, factor=4), sinusoids(SPEC, at / 4))
    assert len(inv_freq_of(SPEC)) == 8
