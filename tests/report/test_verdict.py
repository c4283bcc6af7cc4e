"""Stable, used, neither: on numbers made for it, and RULER's rule for how far a score holds."""

import math

import pytest

from ctxext.report.findings.verdict import Evidence, Task, copied_to, reach, verdict

FLAT = [(256, 3.0), (512, 2.9), (1024, 2.8), (2048, 2.7)]
RISING = [(256, 3.0), (512, 5.0), (1024, 20.0), (2048, 50.0)]


@pytest.mark.parametrize(
    ("points", "held"),
    [
        (FLAT, 2048),
        (RISING, 256),
        ([(256, 9.0), (512, 3.0)], None),
        ([(512, 3.0), (256, 3.0), (1024, 9.0), (2048, 3.0)], 512),  # a gap ends it
        ([(256, 3.0), (512, None), (1024, 3.0)], 256),
        ([(256, 3.0), (512, math.nan)], 256),
        ([(256, 4.0)], 256),  # exactly the limit
        ([], None),
    ],
)
def test_reach_ends_at_the_first_length_above_the_limit(points, held):
    assert reach(points, limit=4.0) == held


def test_copied_as_far_as_half_of_it_is():
    assert copied_to([(64, 0.9), (128, 0.5), (256, 0.49), (512, 0.9)]) == 128
    assert copied_to([(64, 0.2)]) is None


def judge(points, *tasks, reference=3.0, lost=()):
    return verdict(Evidence("m", 256, points, reference, tasks, lost))


@pytest.mark.parametrize(
    ("points", "tasks", "word"),
    [
        (FLAT, [Task("copy", 2048, 2048)], "used"),
        (FLAT, [Task("copy", 1024, 1024)], "used"),  # as far as was asked
        (FLAT, [Task("copy", 512, 2048)], "used in part"),
        (FLAT, [Task("copy", 2048, 2048), Task("key", 256, 2048)], "stable, not used"),
        (FLAT, [Task("copy", None, 2048)], "stable, not used"),
        (FLAT, [Task("copy", 256, 256)], "stable, use not shown"),  # not asked beyond
        (FLAT, [], "stable, use not shown"),
        (RISING, [Task("copy", 256, 2048)], "collapses"),
        ([(256, 3.0), (512, 3.1), (1024, 50.0)], [], "holds in part"),
        ([(256, 30.0), (2048, 29.0)], [], "worse everywhere"),
        ([(128, 5.0), (256, 3.0), (2048, 3.0)], [], "stable, use not shown"),
        ([(128, 3.3), (256, 3.0)], [], "not measured"),
        ([], [Task("copy", 2048, 2048)], "retrieves"),
        ([], [Task("copy", 256, 2048)], "does not retrieve"),
    ],
)
def test_a_verdict_in_one_word(points, tasks, word):
    assert judge(points, *tasks).word == word


def test_without_the_base_in_its_window_nothing_is_claimed():
    assert judge(FLAT, reference=None).word == "not measured"


def test_a_verdict_in_sentences():
    one = judge(FLAT, Task("copy", 2048, 2048), Task("key", None, 2048, 0.6))
    assert one.sentence == (
        "Perplexity holds to 2k (2.7, against 3 in the base's window); "
        "retrieval holds to 2k (copy), nowhere (key), 60 % at best."
    )
    assert (one.stable_to, one.used_to, one.use_measured) == (2048, None, True)
    lost = judge(FLAT, Task("copy", 2048, 2048), lost=[("copy", 1024)])
    assert lost.word == "used, but not the middle"
    assert lost.sentence.endswith("the middle is lost in copy at 1k.")
    rising = judge(RISING)
    assert "holds to 256 and is 50 at 2k" in rising.sentence
    assert "whether far text is used was not measured" in rising.sentence
    assert rising.to_dict()["use_measured"] is False


def test_what_nobody_solves_shows_no_use_but_its_choice_is_told():
    chosen = [Task("copy", 2048, 2048), Task("key", None, 2048), Task("other", None, 0)]
    one = verdict(Evidence("m", 256, FLAT, 3.0, chosen=chosen))
    assert one.word == "stable, use not shown"
    assert one.sentence.endswith(
        "no model here solves copy, key, other at any length, so use is not shown; "
        "it tells the answer from distractors to 2k (copy), nowhere (key)."
    )


def test_a_little_over_the_limit_may_be_noise():
    points = [(256, 3.8), (512, 3.7), (1024, 3.6), (2048, 3.5)]
    surely = verdict(Evidence("m", 256, points, 3.0))
    assert (surely.word, surely.stable_to) == ("worse everywhere", None)
    perhaps = verdict(Evidence("m", 256, points, 3.0, noise={n: 0.1 for n, _ in points}))
    assert (perhaps.word, perhaps.stable_to) == ("stable, use not shown", 2048)
