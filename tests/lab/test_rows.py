"""Training rows hold what they claim: periods, planted strings, untouched text."""

import numpy as np

from ctxext.lab.rows import plant_repeats, repeating_rows, text_rows


def test_repeating_rows_have_a_period():
    rows = repeating_rows(np.random.default_rng(0), 50, 64, 12)
    assert rows.shape == (50, 64)
    periods = set()
    for row in rows:
        period = next(p for p in range(1, 65) if (row[p:] == row[:-p]).all())
        assert len(set(row[:period].tolist())) == period  # distinct bytes
        periods.add(period)
    assert min(periods) >= 3
    assert max(periods) <= 12
    assert len(periods) > 5


def test_planted_rows_hold_a_string_twice_and_the_text_else():
    rng = np.random.default_rng(1)
    text = np.full(5000, ord("."), dtype=np.uint8)
    rows = plant_repeats(rng, text_rows(rng, text, 400, 256), 0.3)
    changed = [row for row in rows if (row != ord(".")).any()]
    assert 0.2 < len(changed) / len(rows) < 0.4
    for row in changed:
        # At the first foreign byte a string of 6 to 24 distinct bytes begins, and comes again.
        # ("." itself may be one of its bytes, so its last ones are not looked at.)
        start = int(np.flatnonzero(row != ord("."))[0])
        head = row[start : start + 5].tobytes()
        assert row.tobytes().count(head) >= 2


def test_same_seed_same_rows():
    text = np.frombuffer(b"some text, long enough to cut from it" * 10, dtype=np.uint8)
    one, two = (text_rows(np.random.default_rng(5), text, 4, 16) for _ in range(2))
    assert (one == two).all()
    assert one.tobytes()[:16] in text.tobytes()
