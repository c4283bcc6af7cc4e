"""Positions: restarted where documents begin; PoSE's rise, stay below the target and cover it."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ctxext.data.positions import PositionSkips, restarting_positions
from ctxext.errors import BadInput


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4))
def test_positions_restart_with_every_document(rows):
    length = max(map(sum, rows))
    begins = np.zeros((len(rows), length), bool)
    wanted = []
    for row, sizes in zip(begins, rows, strict=True):
        sizes = [*sizes, length - sum(sizes)]
        row[[s for s in np.cumsum([0, *sizes[:-1]]) if s < length]] = True
        wanted.append([place for size in sizes for place in range(size)])
    assert restarting_positions(begins).tolist() == wanted


@given(
    length=st.integers(2, 40),
    further=st.integers(0, 500),
    chunks=st.integers(2, 6),
    seed=st.integers(0, 9),
    number=st.integers(0, 10**6),
)
@settings(deadline=None)
def test_positions_rise_from_0_and_stay_below_the_target(length, further, chunks, seed, number):
    chunks = min(chunks, length)
    skips = PositionSkips(length, length + further, chunks, seed)
    rows = skips.batch(number, 3)
    assert rows.shape == (3, length)
    assert rows.dtype == np.int64
    assert (rows[:, 0] == 0).all()
    assert (np.diff(rows, axis=1) > 0).all()
    assert (rows < length + further).all()
    assert ((np.diff(rows, axis=1) > 1).sum(axis=1) <= chunks - 1).all()
    assert (rows[1] == skips.batch(number + 1, 1)[0]).all()  # whatever was read before


@pytest.mark.parametrize("chunks", [2, 3, 5])
def test_many_rows_cover_every_position_and_every_distance(chunks):
    length, target = 16, 96
    rows = PositionSkips(length, target, chunks, seed=1).batch(0, 12_000)
    assert set(rows.ravel().tolist()) == set(range(target))
    seen = set()
    for i in range(length):
        for j in range(i):
            seen |= set((rows[:, i] - rows[:, j]).tolist())
    assert seen == set(range(1, target))


def test_two_chunks_are_drawn_uniformly():
    length, target = 8, 40
    rows = PositionSkips(length, target, 2, seed=3).batch(0, 20_000)
    moved = rows[:, -1] - (length - 1)  # u_1 ~ U{0, ..., 32}
    counts = np.bincount(moved, minlength=33)
    expected = 20_000 / 33
    assert ((counts - expected) ** 2 / expected).sum() < 62.5  # chi squared, 32 degrees, p = 0.001
    cut = np.argmax(np.diff(rows[moved > 0], axis=1) > 1, axis=1)  # U{1, ..., 7}
    counts = np.bincount(cut, minlength=7)
    expected = len(cut) / 7
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # 6 degrees, p = 0.001


def test_a_target_of_the_row_itself_skips_nothing_and_seeds_differ():
    assert PositionSkips(8, 8).batch(0, 5).tolist() == [list(range(8))] * 5
    one, two = (PositionSkips(8, 80, 2, seed).batch(0, 50) for seed in (0, 1))
    assert (one != two).any()


def test_bad_windows_are_refused():
    with pytest.raises(BadInput, match=r"train\.pose_target is 7, shorter than a row of 8"):
        PositionSkips(8, 7)
    for chunks in (1, 9):
        with pytest.raises(BadInput, match=r"train\.pose_chunks"):
            PositionSkips(8, 80, chunks)
