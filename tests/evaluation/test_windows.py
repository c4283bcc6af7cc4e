from hypothesis import given
from hypothesis import strategies as st

from ctxext.evaluation.windows import disjoint_windows, position_edges, sliding_windows


@given(tokens=st.integers(2, 400), length=st.integers(2, 120), stride=st.integers(1, 120))
def test_every_token_but_the_first_is_scored_once(tokens, length, stride):
    stride = min(stride, length - 1)
    scored = [
        i for w in sliding_windows(tokens, length, stride) for i in range(w.end - w.scored, w.end)
    ]
    assert scored == list(range(1, tokens))


@given(tokens=st.integers(2, 400), length=st.integers(2, 120))
def test_disjoint_windows_score_all_but_their_first(tokens, length):
    windows = disjoint_windows(tokens, length)
    assert [w.begin for w in windows] == [b for b in range(0, tokens, length) if b + 1 < tokens]
    assert all(w.scored == w.length - 1 for w in windows)
    assert all(w.length == length for w in disjoint_windows(tokens, length, whole=True))


@given(st.integers(4, 200_000))
def test_edges_cover_the_window(length):
    edges = position_edges(length)
    assert edges[0] == 0
    assert edges[-1] == length
    assert edges == sorted(set(edges))
