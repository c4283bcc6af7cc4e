"""What far text does to a model's loss, whether it is used, and how both are said."""

import math

import pytest

from ctxext.report.findings.groups import PerplexityGroup
from ctxext.report.findings.reading import read_far
from ctxext.report.findings.verdict import Evidence, Task, copied_to, reach, reach_words, verdict
from ctxext.report.tables.verdict import verdict_table
from ctxext.runs.rows.blocks import Blocks
from ctxext.runs.rows.perplexity import LengthRow, PositionRow

FLAT = [(256, 3.0), (512, 3.0), (1024, 3.0), (2048, 3.0)]
FALLING = [(256, 3.0), (512, 2.9), (1024, 2.8), (2048, 2.7)]
RISING = [(256, 3.0), (512, 5.0), (1024, 20.0), (2048, 50.0)]
WORSE = [(256, 3.0), (512, 3.0), (1024, 3.1), (2048, 3.3)]


@pytest.mark.parametrize(
    ("points", "held"),
    [
        (FALLING, 2048),
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


def row(model, length, perplexity, stderr=0.005, blocks=None):
    nll = None if perplexity is None else math.log(perplexity)
    return LengthRow(
        model=model, length=length, perplexity=perplexity, nll=nll, stderr=stderr, tokens=1000,
        blocks=blocks,
    )  # fmt: skip


def group(window=256, **models):
    rows = [row(name, *point) for name, points in models.items() for point in points]
    return PerplexityGroup("a book", window, results=rows)


def judge(points, *tasks, window=256, **evidence):
    reading = read_far(group(window, m=points), "m") if points else None
    return verdict(Evidence("m", window, reading, tasks, **evidence))


@pytest.mark.parametrize(
    ("points", "tasks", "word"),
    [
        (FALLING, [Task("copy", 2048, 2048)], "gains, used"),
        (FLAT, [Task("copy", 1024, 1024)], "holds, used"),  # as far as was asked
        (FLAT, [Task("copy", 512, 2048)], "holds, used in part"),
        (FLAT, [Task("copy", 512, 2048, perhaps=2048)], "holds, used in part"),  # not for sure
        (WORSE, [Task("copy", 2048, 2048)], "loses, used"),
        (FALLING, [Task("copy", 2048, 2048), Task("key", 256, 2048)], "gains, not used"),
        (FLAT, [Task("copy", None, 2048)], "holds, not used"),
        (FLAT, [Task("copy", 256, 256)], "holds"),  # not asked beyond
        (RISING, [Task("copy", 256, 2048)], "collapses"),
        ([(256, 3.0), (512, 3.0), (1024, 50.0), (2048, 3.0)], [], "collapses"),
        ([(256, 3.0), (512, None)], [], "collapses"),  # no number at all
        ([(128, 5.0), (256, 3.0), (2048, 3.0)], [], "holds"),  # the longest inside counts
        ([(128, 3.3), (256, 3.0)], [], "not measured"),
        ([(512, 3.0), (1024, 3.0)], [], "not measured"),  # nothing inside to compare with
        ([], [Task("copy", 2048, 2048)], "used"),
        ([], [Task("copy", 256, 2048)], "not used"),
    ],
)
def test_a_verdict_in_a_word(points, tasks, word):
    assert judge(points, *tasks).word == word


def test_a_loss_beyond_noise_is_one_however_small():
    lost = judge([(512, 3.0), (2048, 3.0 * math.exp(0.104))], window=512)
    assert lost.word == "loses"
    assert lost.far.apart.difference == pytest.approx(0.104)
    assert lost.stable_to == 512
    noisy = [(512, 3.0, 0.1), (2048, 3.0 * math.exp(0.104), 0.1)]
    assert judge(noisy, window=512).word == "holds"  # ± 0.28


def test_the_same_text_tells_what_two_errors_hide():
    def blocks(change):
        hard = [2.0, 5.0, 1.0, 4.0, 3.0, 6.0, 2.0, 5.0]
        return Blocks(
            text="ab" * 32, size=256,
            sums=tuple(256 * (nats + change) for nats in hard), weights=(256.0,) * 8,
        )  # fmt: skip

    rows = [row("m", 256, math.exp(3.5), 0.6, blocks(0.0)),
            row("m", 1024, math.exp(3.52), 0.6, blocks(0.02))]  # fmt: skip
    paired = verdict(Evidence("m", 256, read_far(PerplexityGroup("", 256, results=rows), "m")))
    assert (paired.word, paired.far.apart.paired) == ("loses", True)
    assert paired.far.apart.difference == pytest.approx(0.02)


def test_a_model_that_is_worse_inside_says_what_it_costs():
    both = group(base=FLAT, yarn=[(n, 3.3) for n, _ in FLAT], lost=[(n, 30.0) for n, _ in FLAT])
    yarn = verdict(Evidence("yarn", 256, read_far(both, "yarn")))
    assert yarn.word == "holds"
    assert yarn.cost.difference == pytest.approx(math.log(1.1))
    assert yarn.sentence.startswith(
        "Holds: +0.000 ± 0.014 nats at 2k against its 256 (3.3 to 3.3); the model costs 0.095 ± "
        "0.014 nats at 256, inside the window"
    )
    lost = verdict(Evidence("lost", 256, read_far(both, "lost")))
    assert (lost.word, lost.step, lost.stable_to) == ("costs too much inside, holds", "holds", None)
    assert lost.sentence.startswith(
        "The model costs 2.303 ± 0.014 nats at 256, inside the window already; then holds: +0.000"
    )
    assert lost.rank > yarn.rank


def test_a_model_that_holds_and_is_worse_at_every_length_does_not_come_first():
    """As YaRN without training on a base that loses a little beyond its window."""
    losing = [(256, 30.0), (1024, 31.0), (2048, 33.0)]
    both = group(base=losing, yarn=[(256, 38.0), (1024, 37.5), (2048, 38.0)])
    base, yarn = (verdict(Evidence(m, 256, read_far(both, m))) for m in ("base", "yarn"))
    assert (base.word, yarn.word) == ("loses", "holds")
    assert yarn.behind.difference == pytest.approx(math.log(38 / 33))
    assert "; at 2k it is still 0.141 ± 0.014 nats worse than base" in yarn.sentence
    assert "worse" not in base.sentence
    assert (base.behind, base.rank < yarn.rank) == (None, True)
    heads, (first, second) = verdict_table([base, yarn])
    at = heads.index("far, minus base")
    assert (first[at], second[at]) == ("–", "+0.141 ± 0.014")
    assert yarn.to_dict()["cost_far"]["difference"] == pytest.approx(math.log(38 / 33))


def test_reading_inside_the_window_alone_is_not_the_best():
    inside = judge(RISING, Task("copy", 256, 2048, perhaps=256))
    perhaps = judge(FALLING, Task("copy", None, 2048, perhaps=2048))
    assert (inside.used_to, perhaps.used_to) == (256, None)
    assert perhaps.rank < inside.rank


def test_a_cost_inside_and_a_gain_beyond_are_both_told():
    """As linear scaling after a little training: nearly twice the perplexity, and no collapse."""
    both = group(base=RISING, linear=[(256, 6.0), (1024, 5.5), (2048, 5.0)])
    linear = verdict(Evidence("linear", 256, read_far(both, "linear")))
    assert (linear.word, linear.step) == ("costs too much inside, gains", "gains")
    assert "already; then gains 0.182 ± 0.014 nats at 2k against its 256" in linear.sentence
    assert linear.to_dict()["costs_too_much"] is True
    base = verdict(Evidence("base", 256, read_far(both, "base")))
    assert (base.word, base.costs_too_much) == ("collapses", False)


def test_a_model_measured_beyond_only_is_held_to_the_first_one():
    both = group(base=FLAT, far=[(2048, 3.3)])
    far = verdict(Evidence("far", 256, read_far(both, "far")))
    assert (far.word, far.cost) == ("loses", None)
    assert "against base at 256" in far.sentence
    assert "inside" not in far.sentence


def test_by_position_where_one_length_was_measured():
    rows = [
        PositionRow(model="m", start=a, end=b, perplexity=p, nll=math.log(p), stderr=0.01, tokens=9)
        for a, b, p in ((0, 256, 3.0), (256, 512, 2.5), (512, 1024, 2.4))
    ]
    one = verdict(Evidence("m", 256, read_far(PerplexityGroup("", 256, by_position=rows), "m")))
    assert (one.word, one.stable_to) == ("gains", 1024)


def test_a_verdict_in_sentences():
    one = judge(FALLING, Task("copy", 2048, 2048), Task("key", None, 2048, 0.6))
    assert one.sentence == (
        "Gains 0.105 ± 0.014 nats at 2k against its 256 (3 to 2.7); "
        "retrieval holds to 2k (copy), nowhere (key), 60 % at best."
    )
    assert (one.stable_to, one.used_to, one.use_measured) == (2048, None, True)
    lost = judge(FLAT, Task("copy", 2048, 2048), lost=[("copy", 1024)])
    assert lost.word == "holds, used but not the middle"
    assert lost.sentence.endswith("the middle is lost in copy at 1k.")
    rising = judge(RISING)
    assert rising.sentence.startswith(
        "Perplexity holds to 256 and collapses beyond (3 to 50 at 2k)"
    )
    assert "whether far text is used was not measured" in rising.sentence
    assert rising.to_dict()["use_measured"] is False
    beyond = judge([(512, 3.0)])
    assert beyond.sentence.startswith("No perplexity inside the trained window of 256 tokens was")
    doubt = judge([], Task("copy", 512, 2048, perhaps=1024), Task("key", None, 2048, perhaps=512))
    assert "retrieval holds to 512, perhaps to 1k (copy), perhaps to 512 (key)" in doubt.sentence
    assert doubt.word == "perhaps used"


def test_what_nobody_solves_shows_no_use_but_its_choice_is_told():
    chosen = [Task("copy", 2048, 2048), Task("key", None, 2048), Task("other", None, 0)]
    one = judge(FLAT, chosen=chosen)
    assert one.word == "holds, use not shown"
    assert one.sentence.endswith(
        "no model here solves copy, key, other at any length, so use is not shown; "
        "it tells the answer from distractors to 2k (copy), nowhere (key)."
    )


def test_models_are_ranked_by_use_then_by_loss():
    far = [Task("copy", 2048, 2048)]
    ranked = sorted(
        [judge(RISING), judge(FLAT), judge(WORSE, *far), judge(FALLING), judge(FALLING, *far)],
        key=lambda one: one.rank,
    )
    assert [one.word for one in ranked] == [
        "gains, used", "loses, used", "gains", "holds", "collapses",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("surely", "perhaps", "words"),
    [(1024, 1024, "1k"), (1024, None, "1k"), (1024, 4096, "1k to 4k"), (None, 512, "perhaps 512"),
     (None, None, "nowhere")],
)  # fmt: skip
def test_a_reach_is_said_with_its_doubt(surely, perhaps, words):
    assert reach_words(surely, perhaps) == words
