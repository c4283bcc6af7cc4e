"""The base that `abf` chooses, against brute force, published numbers and its own two rules."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ctxext.encodings.rope import RopeSpec
from ctxext.methods import METHODS
from ctxext.methods.abf import chosen_base, critical_base, keeps_order


def similarity(rotary_dim, theta, target):
    """B(m) for m = 0 .. target, by numpy."""
    inv_freq = theta ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    return np.cos(np.outer(np.arange(target + 1), inv_freq)).sum(axis=1)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.sampled_from([8, 16, 32, 64, 128]), st.floats(1e3, 1e9), st.integers(2, 6000))
def test_no_distance_is_passed_over_that_matters(rotary_dim, theta, target):
    lowest = similarity(rotary_dim, theta, target).min()
    if abs(lowest) > 1e-9:
        assert keeps_order(rotary_dim, theta, target) == (lowest >= 0)


@pytest.mark.parametrize(
    ("rotary_dim", "theta", "first"),
    [(128, 1e4, 1707), (128, 5e5, 18438), (64, 1e4, 725), (64, 5e5, 9937), (32, 1e4, 474)],
)
def test_the_first_distance_at_which_known_bases_fail(rotary_dim, theta, first):
    """Computed elsewhere, of head dims and bases that checkpoints have."""
    assert keeps_order(rotary_dim, theta, first - 1)
    assert not keeps_order(rotary_dim, theta, first)


def test_the_critical_base_by_hand():
    # 10000 ** (ln(16384 / 2 pi) / ln(4096 / 2 pi)) = 10000 ** (7.8663 / 6.4800) = 71.7 thousand
    assert critical_base(RopeSpec(128, 1e4, 4096), 16384) == pytest.approx(71_700, rel=1e-3)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.sampled_from([32, 64, 128]), st.floats(1e3, 1e6), st.integers(128, 4096), st.floats(1.5, 8)
)
def test_what_is_chosen_holds_both_rules_and_is_the_smallest(rotary_dim, theta, window, factor):
    spec, target = RopeSpec(rotary_dim, theta, window), round(window * factor)
    base, holds = chosen_base(spec, target)
    least = max(theta, critical_base(spec, target))
    assert base >= least
    if not holds:
        assert base == least
        return
    assert similarity(rotary_dim, base, target).min() >= -1e-9
    smaller = base / 2 ** (1 / 8)
    if smaller >= least * (1 + 1e-9):
        assert similarity(rotary_dim, smaller, target).min() < 1e-9


def test_never_below_the_present_base():
    # 5e6 is far above what 8192 tokens need
    assert METHODS["abf"](RopeSpec(128, 5e6, 4096), 4100).rope_theta >= 5e6


def test_where_no_base_is_enough_it_is_said():
    """One pair alone is on the other side of its circle after half a turn, whatever the base."""
    got = METHODS["abf"](RopeSpec(2, 1e4, 512), 2048)
    assert got.rope_theta == critical_base(RopeSpec(2, 1e4, 512), 2048)
    (note,) = got.notes
    assert "1 pairs" in note
    assert "critical base alone" in note
    assert METHODS["abf"](RopeSpec(128, 1e4, 512), 2048).notes == ()


@pytest.mark.parametrize(
    ("rotary_dim", "target", "smallest", "safe"),
    [(128, 8192, 9.1e4, 1.7e5), (128, 16384, 3.5e5, 1.4e6), (64, 8192, 4.8e5, 2.0e6)],
)
def test_a_table_that_was_computed_elsewhere(rotary_dim, target, smallest, safe):
    """On a finer grid: the smallest base that holds, and the one above which all hold."""
    base, holds = chosen_base(RopeSpec(rotary_dim, 1e4, target - 2), target)
    assert holds
    assert 0.95 * smallest <= base <= safe * 1.1
