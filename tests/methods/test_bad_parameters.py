"""Parameters that a method cannot compute with: one sentence each, that names the parameter."""

import math

import pytest

from ctxext.encodings.rope import RopeSpec
from ctxext.errors import BadInput
from ctxext.methods import METHODS

SPEC = RopeSpec(8, 10_000.0, 512)
BAD = [
    ("ntk-by-parts", {"alpha": 40}, "beta > alpha > 0"),
    ("ntk-by-parts", {"alpha": 0}, "beta > alpha > 0"),
    ("ntk-by-parts", {"beta_fast": 3}, "no parameter 'beta_fast'"),
    ("ntk-by-parts", {"beta": math.nan}, "beta is nan, and has to be a finite number"),
    ("longrope", {}, "longrope needs long_factor"),
    ("longrope", {"long_factor": None}, "longrope needs long_factor"),
    ("longrope", {"long_factor": [1, 2, 3]}, "long_factor has 3 numbers, and 4 are needed"),
    ("longrope", {"long_factor": [1, 2, 3, 0]}, r"long_factor\[3\] is 0"),
    ("longrope", {"long_factor": [1, 2, 3, -1]}, r"long_factor\[3\] is -1"),
    ("longrope", {"long_factor": [1, 1e-9, 3, 4]}, r"long_factor\[1\] is 1e-09"),
    ("longrope", {"long_factor": [1, 2, 3, 2**31]}, "below 2"),
    ("longrope", {"long_factor": [1, 2, math.inf, 4]}, "inf, and has to be a list of finite"),
    ("longrope", {"long_factor": [1, "2", 3, 4]}, "'2', and has to be a list of finite"),
    ("longrope", {"long_factor": 4}, "long_factor is 4, and has to be a list"),
    ("longrope", {"long_factor": "1234"}, "has to be a list"),
    ("longrope", {"long_factor": [1] * 4, "short_factor": [1]}, "short_factor has 1 numbers"),
    ("longrope", {"long_factor": [1] * 4, "attention_factor": 0}, "attention_factor must be"),
    ("abf", {"rope_theta": 9_999}, "at least 10000, the present one"),
    ("abf", {"rope_theta": 1e39}, "below 3e38"),
    ("abf", {"rope_theta": "1e6"}, "rope_theta is '1e6', and has to be a finite number"),
    ("cope", {"rope_theta": 1}, "cope needs a rope_theta of at least 10000"),
    ("cope", {"n": 1}, "clips 2 to 4 pairs"),
    ("cope", {"n": 5}, "n is 5"),
    ("cope", {"n": 2.5}, "n is 2.5, and has to be a whole number"),
    ("cope", {"n": True}, "n is True, and has to be a whole number"),
    ("p-rope", {"p": 0}, "p above 0 and at most 1"),
    ("p-rope", {"p": 1.5}, "p above 0 and at most 1"),
    ("p-rope", {"p": 0.1}, "leaves none of 4 pairs"),
    ("resonance", {"beta_fast": 1, "beta_slow": 2}, "beta_fast > beta_slow > 0"),
    ("resonance", {"attention_factor": -1}, "attention_factor must be positive"),
    ("dual-chunk", {"chunk_size": 1024}, "chunk_size <= 512"),
    ("dual-chunk", {"local_size": 0}, "0 < local_size"),
    ("dual-chunk", {"chunk_size": 100.5}, "whole number"),
    ("none", {"factor": 2}, "none has no parameter 'factor'"),
    ("ntk", {"critical_pair": 0}, "critical_pair is 0, and the pairs"),
    ("ntk", {"critical_pair": 4}, "1 to 3"),
    ("yarn", {"critical_pair": 9}, "1 to 3"),
    ("yarn", {"critical_pair": 1, "beta_slow": 2}, "beta_slow or critical_pair"),
]


@pytest.mark.parametrize(("name", "parameters", "words"), BAD)
def test_a_value_out_of_range_is_one_sentence(name, parameters, words):
    with pytest.raises(BadInput, match=words) as caught:
        METHODS[name](SPEC, 2048, **parameters)
    assert "\n" not in str(caught.value)


def test_a_critical_pair_that_turns_too_often():
    # pair 1 of Llama 2 turns 564 times, and YaRN leaves alone what turns 32 times
    with pytest.raises(BadInput, match="beta_fast >= beta_slow"):
        METHODS["yarn"](RopeSpec(128, 1e4, 4096), 8192, critical_pair=1)


def test_windows_too_short_to_choose_a_base_from():
    with pytest.raises(BadInput, match="a window of 6 tokens is too short") as caught:
        METHODS["abf"](RopeSpec(8, 1e4, 6), 12)
    assert "rope_theta" in caught.value.hint
