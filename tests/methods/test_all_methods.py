"""One table, all methods: what every method must hold, and transformers as second source."""

import itertools
import math
from contextlib import contextmanager
from typing import get_args

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ctxext.encodings.kinds import PositionEncoding
from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods import METHODS, get_method, methods_for, rope_methods

HEAD_DIMS = (8, 16, 32, 64, 80, 96, 128, 192, 256)
THETAS = (1e4, 5e5, 1e6, 1e7)
FACTORS = (1.0, 2.0, 3.2, 4.0, 8.0, 32.0, 64.0)
WINDOWS = (256, 4096, 40960)
ROPE = [method.name for method in rope_methods()]
GRID = list(itertools.product(HEAD_DIMS, THETAS, FACTORS, WINDOWS))
# These act whatever the factor: on the base, on the slowest pairs, on every wavelength.
ALWAYS = ("abf", "cope", "drop", "p-rope", "resonance")


def target_of(window: int, factor: float) -> int:
    return round(window * factor)


def extended(name: str, spec: RopeSpec, factor: float):
    """A method with what it has to be given; a base that is given is not searched for."""
    given = {}
    if "rope_theta" in METHODS[name].parameters:
        given["rope_theta"] = 4 * spec.rope_theta
    if "long_factor" in METHODS[name].required:
        pairs = spec.rotary_dim // 2
        given["long_factor"] = [1 + (factor - 1) * i / pairs for i in range(pairs)]
    return METHODS[name](spec, target_of(spec.original_max_position_embeddings, factor), **given)


def transformers_values(extension, head_dim: int, length: int) -> tuple[torch.Tensor, float]:
    """What transformers computes from the block that the method asks to be written."""
    config = LlamaConfig(
        hidden_size=head_dim * 2,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=extension.max_position_embeddings,
        rope_parameters={**extension.rope_block, "rope_theta": extension.rope_theta},
    )
    kind = extension.rope_block["rope_type"]
    if kind == "default":
        return LlamaRotaryEmbedding.compute_default_rope_parameters(config, device=None)
    return ROPE_INIT_FUNCTIONS[kind](config, device=None, seq_len=length)


@contextmanager
def in_float64(monkeypatch):
    """Run transformers' own formulas, which ask for float32 by name, in float64."""
    with monkeypatch.context() as patch:
        patch.setattr(torch, "float", torch.float64)
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        yield


@pytest.mark.parametrize("name", ROPE)
def test_transformers_formula_is_ours(name, monkeypatch):
    """transformers' code in float64 gives our numbers, so rounded to float32 they are identical."""
    for head_dim, theta, factor, window in GRID:
        spec = RopeSpec(head_dim, theta, window)
        target = target_of(window, factor)
        ours = extended(name, spec, factor)
        with in_float64(monkeypatch):
            theirs, attention = transformers_values(ours, head_dim, target)
        assert theirs.dtype == torch.float64
        mine = torch.tensor(ours.inv_freq, dtype=torch.float64)
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=0), (head_dim, theta, factor, window)
        # The last bit of float64 may differ; that it shows in float32 happens once in 2**29.
        assert torch.equal(mine.to(torch.float32), theirs.to(torch.float32))
        assert attention == ours.attention_factor


@pytest.mark.parametrize("name", ROPE)
def test_transformers_as_shipped_differs_by_rounding_only(name):
    """As it runs, in float32: the exponent i/d is rounded to 2**-24 and costs ln(theta) of that."""
    for head_dim, theta, factor, window in GRID:
        target = target_of(window, factor)
        ours = extended(name, RopeSpec(head_dim, theta, window), factor)
        theirs, attention = transformers_values(ours, head_dim, target)
        assert theirs.dtype == torch.float32
        mine = torch.tensor(ours.inv_freq, dtype=torch.float64)
        relative = ((theirs.double() - mine).abs() / mine).max()
        # llama3 divides by a blend that can be 1/s, which enlarges the rounding of the turns.
        assert relative < (1e-5 if name == "llama3" else 1e-6), (
            head_dim,
            theta,
            factor,
            window,
            float(relative),
        )
        assert attention == ours.attention_factor


@pytest.mark.parametrize("name", ROPE)
def test_what_every_method_holds(name):
    for head_dim, theta, factor, window in GRID:
        spec = RopeSpec(head_dim, theta, window)
        got = extended(name, spec, factor)
        base = inv_freq_of(spec)
        assert len(got.inv_freq) == head_dim // 2
        assert all(f > 0 for f in got.inv_freq)
        if name == "resonance":  # which may round two wavelengths to one, and one down
            assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(got.inv_freq))
            base = [f * 7 / 6 for f in base]
        else:
            assert all(a > b for a, b in itertools.pairwise(got.inv_freq))
        assert all(new <= old * (1 + 1e-12) for new, old in zip(got.inv_freq, base, strict=True))
        assert got.attention_factor >= 1
        if factor == 1:
            assert name in ALWAYS or got.inv_freq == pytest.approx(base, rel=1e-12)
            assert got.attention_factor == 1
        # dynamic's is the L of its formula, and none goes back to it
        kept = METHODS[name].facts.keeps_window or METHODS[name].takes_back
        assert got.max_position_embeddings == (window if kept else target_of(window, factor))


def test_every_file_registers_under_its_name():
    from pathlib import Path

    import ctxext.methods

    folder = Path(ctxext.methods.__file__).parent
    files = {p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")}
    assert set(METHODS) == {name.replace("_", "-") for name in files}
    assert {"linear", "ntk", "dynamic", "yarn", "ntk-by-parts", "p-rope"} <= set(METHODS)
    assert get_method("ntk_by_parts") is get_method("ntk-by-parts")


def test_every_encoding_has_methods_and_one_that_is_taken_unasked():
    for encoding in get_args(PositionEncoding):
        first, *others = methods_for(encoding)
        assert encoding in first.default_for
        assert not any(encoding in other.default_for for other in others)
        assert sorted(other.name for other in others) == [other.name for other in others]
        assert all(encoding in other.applies_to for other in others)
    assert methods_for(None) == []


def test_unknown_names_offer_the_nearest():
    with pytest.raises(BadInput, match="unknown method 'yran'") as caught:
        get_method("yran")
    assert "yarn" in caught.value.hint
    with pytest.raises(BadInput, match="no parameter 'beta_fats'") as caught:
        METHODS["yarn"](RopeSpec(8, 1e4, 256), 512, beta_fats=3)
    assert "beta_fast" in caught.value.hint


def test_last_pair_of_ntk_is_linears():
    spec = RopeSpec(64, 1e4, 2048)
    ntk, linear = METHODS["ntk"](spec, 16384), METHODS["linear"](spec, 16384)
    assert math.isclose(ntk.inv_freq[-1], linear.inv_freq[-1], rel_tol=1e-12)
    assert ntk.inv_freq[0] == 1.0
