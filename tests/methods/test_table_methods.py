"""Where the rows of a longer table come from: by hand, and what holds for any two windows."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ctxext.encodings.alibi import AlibiSpec, slopes_of
from ctxext.encodings.learned import TableSpec
from ctxext.encodings.none import WindowSpec
from ctxext.errors import BadInput
from ctxext.methods import METHODS, methods_for

THREE = TableSpec(window=3, offset=2)
property_test = settings(max_examples=60, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        # 3 rows over 6: a step of 1/2, and after the last row nothing but the last row
        ("interpolate", [0, 0.5, 1, 1.5, 2, 2]),
        ("tile", [0, 1, 2, 0, 1, 2]),
        ("group", [0, 0, 1, 1, 2, 2]),
    ],
)
def test_by_hand(name, source):
    got = METHODS[name](THREE, 6)
    assert got.source == source
    assert got.parameters == {"factor": 2.0}
    assert got.max_position_embeddings == 6


def test_of_windows_that_are_no_multiple_by_hand():
    # 2 rows over 5: a step of 2/5, held at the last row; 0 0.4 0.8 1.2 1.6 rounded down
    assert METHODS["interpolate"](TableSpec(2), 5).source == pytest.approx([0, 0.4, 0.8, 1, 1])
    assert METHODS["group"](TableSpec(2), 5).source == [0, 0, 0, 1, 1]
    assert METHODS["tile"](TableSpec(2), 5).source == [0, 1, 0, 1, 0]


@property_test
@given(window=st.integers(1, 300), target=st.integers(1, 2000))
def test_every_row_is_of_the_trained_table(window, target):
    target = max(window, target)
    for method in methods_for("learned"):
        source = method(TableSpec(window), target).source
        assert len(source) == target
        assert all(0 <= x <= window - 1 for x in source)
        if target == window:
            assert source == list(range(window))
    line = np.interp(np.arange(target) * (window / target), np.arange(window), np.arange(window))
    got = METHODS["interpolate"](TableSpec(window), target).source
    assert np.allclose(got, line, rtol=0, atol=1e-9)
    assert METHODS["tile"](TableSpec(window), target).source[:window] == list(range(window))


def test_alibi_by_hand():
    spec = AlibiSpec(heads=2, window=512)
    assert METHODS["slopes"](spec, 2048).factor == 4.0
    assert [m / 4 for m in slopes_of(spec)] == [1 / 64, 1 / 1024]
    assert METHODS["extrapolate"](spec, 2048).max_position_embeddings == 2048
    assert METHODS["none"](WindowSpec(512), 2048).max_position_embeddings == 512


def test_they_take_no_parameters():
    with pytest.raises(BadInput, match="tile has no parameter 'factor'"):
        METHODS["tile"](THREE, 6, factor=2)
