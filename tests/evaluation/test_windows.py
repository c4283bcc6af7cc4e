from hypothesis import given, strategies as st

from ctxext.evaluation.reading.windows import (
    Plan,
    Window,
    disjoint_windows,
    position_edges,
    sliding_windows,
)


@given(tokens=st.integers(2, 400), length=st.integers(2, 120), stride=st.integers(1, 120))
def test_every_token_but_the_first_is_scored_once(tokens, length, stride):
    stride = min(stride, length - 1)
    scored = [
        i for w in sliding_windows(tokens, length, stride) for i in range(w.end - w.scored, w.end)
    ]
    assert scored == list(range(1, tokens))


@given(tokens=st.integers(2, 400), length=st.integers(2, 120))
def test_disjoint_windows_score_all_but_their_first(tokens, length):
    windows = list(disjoint_windows(tokens, length))
    assert [w.begin for w in windows] == [b for b in range(0, tokens, length) if b + 1 < tokens]
    assert all(w.scored == w.length - 1 for w in windows)
    assert all(w.length == length for w in disjoint_windows(tokens, length, whole=True))


@given(st.integers(4, 200_000))
def test_edges_cover_the_window(length):
    edges = position_edges(length)
    assert edges[0] == 0
    assert edges[-1] == length
    assert edges == sorted(set(edges))


_WINDOWS = st.tuples(
    st.integers(0, 3),
    st.builds(
        lambda begin, length, scored: Window(begin, begin + length, min(scored, length - 1)),
        st.integers(0, 99), st.sampled_from([8, 8, 8, 9, 40]), st.sampled_from([4, 4, 7]),
    ),
)  # fmt: skip


@given(windows=st.lists(_WINDOWS, max_size=30), most=st.integers(1, 40))
def test_a_plan_is_its_windows_and_batches_are_neighbours_of_one_shape(windows, most):
    plan = Plan(iter(windows))
    assert list(plan) == windows
    assert plan.scored.tolist() == [window.scored for _, window in windows]
    expected = []  # one window after the other, as a reader would
    for entry in windows:
        shape = (entry[1].length, entry[1].scored)
        last = expected[-1] if expected else []
        fits = last and (len(last) + 1) * shape[0] <= most
        if fits and (last[0][1].length, last[0][1].scored) == shape:
            last.append(entry)
        else:
            expected.append([entry])
    assert [list(batch) for batch in plan.batches(most)] == expected
