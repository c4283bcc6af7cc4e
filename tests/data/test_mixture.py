"""Several texts at fixed shares: exact over blocks, even in between, a function of the number."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ctxext.data.documents import DocumentStream, choose_documents
from ctxext.data.mixture import BLOCK, Mixture, rows_in_block
from ctxext.data.packing import PackedRows
from ctxext.errors import BadInput


def documents(lengths, first=0):
    """A token file of documents whose tokens count up from `first`."""
    ends = np.cumsum(np.array(lengths, dtype=np.int64))
    return np.arange(first, first + ends[-1], dtype=np.uint32), ends


def mixture(rows, weights, seed=0, length=4):
    parts = tuple(
        PackedRows(
            choose_documents(*documents([length * n], first=1_000_000 * i)),
            length,
            seed,
            text_number=i + 1,
        )
        for i, n in enumerate(rows)
    )
    return Mixture(parts, tuple(weights), seed)


weight_lists = st.lists(st.floats(0.01, 100), min_size=1, max_size=6)


@given(weights=weight_lists, seed=st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_shares_hold_in_every_block_and_nearly_in_every_stretch(weights, seed):
    mixed = mixture([7] * len(weights), weights, seed)
    texts = np.array([mixed.pick(n)[0] for n in range(2 * BLOCK)])
    share = np.array(weights) / sum(weights)
    for index, wanted in enumerate(share):
        count = np.cumsum(texts == index)
        assert count[BLOCK - 1] == count[-1] / 2
        # A share below one row gets a row all the same, which the others give.
        given_away = int((share * BLOCK < 1).sum())
        assert abs(count[BLOCK - 1] - wanted * BLOCK) <= 1 + given_away
        # strips: nobody is ever far behind or ahead of the share
        ideal = np.arange(1, 2 * BLOCK + 1) * (count[-1] / (2 * BLOCK))
        assert np.abs(count - ideal).max() <= 2 + 2 * len(weights)


def test_tiny_weights_get_a_row_and_the_sum_is_kept():
    assert rows_in_block((1.0, 1e-9)) == (1023, 1)
    counts = rows_in_block((1e6, *[1e-6] * 40))
    assert sum(counts) == BLOCK
    assert min(counts) == 1
    assert rows_in_block((3.0, 1.0)) == (768, 256)


@given(seed=st.integers(0, 5), weights=st.lists(st.floats(0.2, 5), min_size=2, max_size=3))
@settings(max_examples=20, deadline=None)
def test_no_row_is_lost_within_an_epoch_of_a_text(seed, weights):
    sizes = [5, 11, 3][: len(weights)]
    mixed = mixture(sizes, weights, seed)
    seen = {index: [] for index in range(len(sizes))}
    for number in range(900):
        row = mixed.batch(number, 1)[0]
        index, start = divmod(int(row[0]), 1_000_000)
        assert (np.diff(row) == 1).all()
        seen[index].append(start // 4)
    for index, size in enumerate(sizes):
        rows = seen[index]
        whole = [sorted(rows[i : i + size]) for i in range(0, len(rows) - size + 1, size)]
        assert whole
        assert all(epoch == list(range(size)) for epoch in whole)


def test_one_text_keeps_the_order_it_had():
    stream = np.arange(4000, dtype=np.uint32)
    plain = PackedRows(stream, 10, 3)
    mixed = Mixture((PackedRows(choose_documents(stream, np.array([4000])), 10, 3),), (2.5,), 3)
    assert (mixed.batch(0, 900) == plain.batch(0, 900)).all()
    order = np.random.default_rng([3, 0]).permutation(400)  # as before there could be several
    assert plain.batch(0, 400)[:, 0].tolist() == (order * 10).tolist()


_FRESH = """
import numpy as np
from test_mixture import mixture
print(mixture([50, 20, 9], [5, 2, 1], seed=4).batch(1500, 40).tolist())
"""


def test_rows_are_a_function_of_seed_and_number():
    mixed = mixture([50, 20, 9], [5, 2, 1], seed=4)
    mixed.batch(0, 37)  # what was read before plays no part
    rows = mixed.batch(1500, 40)
    pieces = [mixed.batch(n, 1) for n in reversed(range(1500, 1540))]
    assert (np.concatenate(pieces[::-1]) == rows).all()
    code = f"import sys; sys.path.insert(0, 'tests/data')\n{_FRESH}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(rows.tolist())
    assert (mixture([50, 20, 9], [5, 2, 1], seed=5).batch(1500, 40) != rows).any()


def test_two_entries_of_one_text_are_read_in_different_orders():
    ids, ends = documents([400])
    one, two = (PackedRows(choose_documents(ids, ends), 4, 0, text_number=n) for n in (1, 2))
    assert (one.batch(0, 50) != two.batch(0, 50)).any()


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    low=st.integers(0, 20),
    high=st.integers(0, 30),
    data=st.data(),
)
def test_chosen_documents_read_as_if_they_were_copied(lengths, low, high, data):
    ids, ends = documents(lengths)
    kept = [n for n in lengths if n >= low and (not high or n <= high)]
    if not kept:
        with pytest.raises(BadInput, match=f"none of its {len(lengths)} documents"):
            choose_documents(ids, ends, min_tokens=low, max_tokens=high)
        return
    stream = choose_documents(ids, ends, min_tokens=low, max_tokens=high)
    pieces = [ids[e - n : e] for e, n in zip(ends, lengths, strict=True)]
    pieces = [p for p in pieces if len(p) >= low and (not high or len(p) <= high)]
    copied = np.concatenate(pieces)
    begins = np.zeros(len(copied), bool)
    begins[np.cumsum([0, *map(len, pieces[:-1])])] = True
    assert len(stream) == len(copied)
    first = data.draw(st.integers(0, len(copied)))
    last = data.draw(st.integers(first, len(copied)))
    assert stream[first:last].tolist() == copied[first:last].tolist()
    assert stream.begins(first, last).tolist() == begins[first:last].tolist()


def test_rows_know_where_their_documents_begin():
    stream = choose_documents(*documents([3, 5, 8]))
    rows = PackedRows(stream, 4, 0)
    for number in range(rows.rows):
        row, begins = rows.row(number), rows.begins(number)
        wanted = [t in (0, 3, 8) or i == 0 for i, t in enumerate(row.tolist())]
        assert begins.tolist() == wanted


def test_bad_mixtures_are_refused_by_name():
    ids, ends = documents([10, 40, 20])
    with pytest.raises(BadInput) as caught:
        choose_documents(ids, ends, min_tokens=100, name="data.sources[1] books")
    assert "data.sources[1] books: min_tokens 100 leaves none of its 3 documents" in str(
        caught.value
    )
    assert "the longest has 40 tokens" in str(caught.value)
    with pytest.raises(BadInput, match=r"books has 70 tokens.*--seq-length 80"):
        PackedRows(choose_documents(ids, ends), 80, 0, name="books")
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="has to be positive"):
            mixture([3, 3], [1.0, weight])
    with pytest.raises(BadInput, match="at least one text"):
        Mixture((), (), 0)
    assert isinstance(choose_documents(ids, ends), DocumentStream)
