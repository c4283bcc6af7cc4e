"""Patterns of module names: what `re` says as peft asks it, without its worst case."""

import re
import time

import pytest
from hypothesis import given, settings, strategies as st

from ctxext.checkpoints.config import patterns
from ctxext.checkpoints.config.patterns import ByPattern
from ctxext.errors import BadInput

PIECES = st.sampled_from(["a", "b", "1", ".", r"\.", "[ab]", "[^a]", r"\w", r"\d", "^", "$", r"\b"])
COUNTS = st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "*?", "+?", "{0}"])
PATTERNS = st.recursive(
    PIECES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, COUNTS).map(lambda pair: f"({pair[0]}){pair[1]}"),
        st.tuples(PIECES, COUNTS).map("".join),
    ),
    max_leaves=8,
)


def matches(pattern, name):
    return ByPattern({pattern: 1}, where="rank_pattern").value_for(name, 0) == 1


@settings(max_examples=500, deadline=None, derandomize=True)
@given(pattern=PATTERNS, name=st.text("ab.1", min_size=1, max_size=7))
def test_says_what_re_says(pattern, name):
    try:
        want = re.match(rf"(.*\.)?({pattern})$", name) is not None  # peft's get_pattern_key
    except re.error:
        with pytest.raises(BadInput, match="no regular expression"):
            matches(pattern, name)
        return
    assert matches(pattern, name) is want


def test_the_first_pattern_that_matches_counts():
    ranks = ByPattern({r"layers\.1\..*": 2, "q_proj": 3, ".*proj": 4}, where="rank_pattern")
    module = "model.layers.{}.self_attn.{}_proj".format
    assert [ranks.value_for(module(i, p), 8) for i, p in [(1, "q"), (0, "q"), (0, "v")]] == [
        2,
        3,
        4,
    ]
    assert ranks.value_for("model.norm", 8) == 8


@pytest.mark.parametrize(
    "pattern",
    ["(([a-z._0-9]+)+)+!", "(.*.*){40}!", "((((a?){99}){99}){99}){99}b", "(a?){500}a{500}",
     "((.*)*)*!", "(a|a)" * 90 + "!"],
)  # fmt: skip
def test_what_has_more_ways_than_can_be_tried_takes_no_time(pattern):
    begun = time.monotonic()
    for _ in range(10):
        assert not matches(pattern, "model.layers.10.self_attn." + "a" * 60)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "pattern",
    ["(?=a)a", r"(a)\1", "(?i)a", "a*+", "(?>a)", r"\x41", "(?P<n>a)", "(" * 400 + ")" * 400,
     "a" * 2000],
)  # fmt: skip
def test_what_cannot_be_walked_is_refused(pattern):
    with pytest.raises(BadInput, match="rank_pattern"):
        matches(pattern, "a")


def test_too_many_names_and_patterns_end(monkeypatch):
    monkeypatch.setattr(patterns, "_STEPS", 50_000)
    many = ByPattern({f"{'x' * 50}{i}.*": i for i in range(2000)}, where="rank_pattern")
    modules = (f"model.layers.{layer}.self_attn.q_proj" for layer in range(100_000))
    with pytest.raises(BadInput, match="take too long"):
        [many.value_for(module, 8) for module in modules]
