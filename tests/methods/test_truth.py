"""Each method against its paper's equation, in float64, and against transformers, in float32."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ctxext.encodings.rope import RopeSpec
from ctxext.methods import METHODS

property_test = settings(max_examples=60, deadline=None, derandomize=True)
SPECS = st.builds(
    RopeSpec,
    rotary_dim=st.sampled_from([8, 16, 32, 64, 80, 96, 128, 192, 256]),
    rope_theta=st.floats(1e3, 1e8),
    original_max_position_embeddings=st.integers(128, 300_000),
)
FACTORS = st.floats(1.001, 64)


def base_of(spec):
    """theta ** (-2 i / d) of the paper, in float64."""
    i = torch.arange(spec.rotary_dim // 2, dtype=torch.float64)
    return spec.rope_theta ** (-2 * i / spec.rotary_dim)


def agrees(extension, wanted, spec, target):
    """The method's numbers are the equation's, and transformers computes them from the block."""
    mine = torch.tensor(extension.inv_freq, dtype=torch.float64)
    assert torch.allclose(mine, wanted, rtol=1e-9, atol=0)
    head_dim = spec.rotary_dim
    block = {**extension.rope_block, "rope_theta": extension.rope_theta}
    config = LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim,
        max_position_embeddings=extension.max_position_embeddings, rope_parameters=block,
    )  # fmt: skip
    for length in (None, target):  # one rotation at every length
        theirs, attention = ROPE_INIT_FUNCTIONS[block["rope_type"]](config, seq_len=length)
        assert theirs.dtype == torch.float32
        assert torch.allclose(theirs.double(), wanted, rtol=2e-6, atol=0)
        assert attention == extension.attention_factor


def target_of(spec, factor):
    return round(spec.original_max_position_embeddings * factor)


@property_test
@given(SPECS, FACTORS, st.floats(0.1, 4), st.floats(4.5, 64))
def test_ntk_by_parts_is_equations_17_to_19(spec, factor, alpha, beta):
    """h(theta_d) = (1 - gamma(r)) theta_d / s + gamma(r) theta_d, r(d) = L / lambda_d."""
    target = target_of(spec, factor)
    window = spec.original_max_position_embeddings
    theta = base_of(spec)
    turns = window / (2 * math.pi / theta)
    gamma = ((turns - alpha) / (beta - alpha)).clamp(0, 1)
    wanted = (1 - gamma) * theta / (target / window) + gamma * theta
    got = METHODS["ntk-by-parts"](spec, target, alpha=alpha, beta=beta)
    agrees(got, wanted, spec, target)


@property_test
@given(SPECS, FACTORS)
def test_resonance_rounds_what_transformers_computes_for_yarn(spec, factor):
    target = target_of(spec, factor)
    yarn = METHODS["yarn"](spec, target)
    waves = 2 * math.pi / torch.tensor(yarn.inv_freq, dtype=torch.float64)
    got = METHODS["resonance"](spec, target)
    agrees(got, 2 * math.pi / waves.round(), spec, target)
    assert got.attention_factor == yarn.attention_factor


@property_test
@given(SPECS, FACTORS, st.data())
def test_cope_is_its_authors_mask(spec, factor, data):
    """0.5 (1 + cos(linspace(0, pi, n))) on the last n pairs, as in their modeling_cope.py."""
    target, pairs = target_of(spec, factor), spec.rotary_dim // 2
    n, times = data.draw(st.integers(2, pairs)), data.draw(st.floats(1, 100))
    theta = spec.rope_theta * times
    wanted = base_of(RopeSpec(spec.rotary_dim, theta, 1))
    mask = 0.5 * (1 + torch.cos(torch.linspace(0, math.pi, n, dtype=torch.float64)))
    wanted[-n:] *= mask
    # a stop is a factor of 1e9 of the trained base
    wanted = torch.maximum(wanted, base_of(spec) / 1e9)
    agrees(METHODS["cope"](spec, target, n=n, rope_theta=theta), wanted, spec, target)


@property_test
@given(SPECS, FACTORS, st.floats(0.3, 1))
def test_p_rope_stops_the_slowest(spec, factor, p):
    target, pairs = target_of(spec, factor), spec.rotary_dim // 2
    wanted = base_of(spec)
    wanted[int(p * spec.rotary_dim // 2) :] /= 1e9
    agrees(METHODS["p-rope"](spec, target, p=p), wanted, spec, target)
    stopped = sum(wanted < base_of(spec) / 2)
    assert stopped == pairs - math.floor(p * spec.rotary_dim / 2)


@property_test
@given(SPECS, FACTORS, st.data())
def test_longrope_divides(spec, factor, data):
    target, pairs = target_of(spec, factor), spec.rotary_dim // 2
    factors = st.lists(st.floats(0.5, 100), min_size=pairs, max_size=pairs)
    long, short = data.draw(factors), data.draw(factors)
    attention = data.draw(st.one_of(st.none(), st.floats(0.5, 2)))
    got = METHODS["longrope"](
        spec, target, long_factor=long, short_factor=short, attention_factor=attention
    )
    head_dim, window = spec.rotary_dim, spec.original_max_position_embeddings
    config = LlamaConfig(
        hidden_size=2 * head_dim, num_attention_heads=2, head_dim=head_dim,
        max_position_embeddings=target,
        rope_parameters={**got.rope_block, "rope_theta": got.rope_theta},
    )  # fmt: skip
    for length, factors in ((target, long), (window, short)):
        wanted = base_of(spec) / torch.tensor(factors, dtype=torch.float64)
        theirs, theirs_attention = ROPE_INIT_FUNCTIONS["longrope"](config, seq_len=length)
        assert torch.allclose(theirs.double(), wanted, rtol=2e-6, atol=0)
        assert theirs_attention == got.attention_factor
    assert got.inv_freq == pytest.approx((base_of(spec) / torch.tensor(long).double()).tolist())
    if attention is None and target > window:
        rule = math.sqrt(1 + math.log(target / window) / math.log(window))
        assert got.attention_factor == pytest.approx(rule, rel=1e-12)


@property_test
@given(SPECS, FACTORS, st.data())
def test_the_critical_pair_is_slowed_by_all_of_s(spec, factor, data):
    """And no pair before it is, whatever rounding a reader does."""
    target, pairs = target_of(spec, factor), spec.rotary_dim // 2
    c = data.draw(st.integers(1, pairs - 1))
    s = target / spec.original_max_position_embeddings
    base = base_of(spec).tolist()
    ntk = METHODS["ntk"](spec, target, critical_pair=c)
    assert ntk.inv_freq[c] == pytest.approx(base[c] / s, rel=1e-9)
    turns = spec.original_max_position_embeddings * base[c] / (2 * math.pi)
    if turns * (1 + 1e-9) >= 32:
        return  # before the pair that turns beta_fast times; refused, below
    yarn = METHODS["yarn"](spec, target, critical_pair=c)
    config = LlamaConfig(
        hidden_size=2 * spec.rotary_dim, num_attention_heads=2, head_dim=spec.rotary_dim,
        max_position_embeddings=target,
        rope_parameters={**yarn.rope_block, "rope_theta": yarn.rope_theta},
    )  # fmt: skip
    theirs, _ = ROPE_INIT_FUNCTIONS["yarn"](config)
    assert yarn.inv_freq[c] == pytest.approx(base[c] / s, rel=1e-12)
    assert theirs[c].item() == pytest.approx(base[c] / s, rel=2e-6)
    before = c - 1 if c > 1 else None
    if before is not None and yarn.inv_freq[before] != base[before] and s > 1.01:
        assert yarn.inv_freq[before] > base[before] / s * (1 + 1e-9)
