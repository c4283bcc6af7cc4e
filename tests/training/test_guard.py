from ctxext.training.run.guard import REMEMBERED, harm, remembered

NAN, INF = float("nan"), float("inf")


def test_what_is_not_finite_is_left_out():
    assert harm(NAN, 1.0, [], 0.0) == "its loss is nan"
    assert harm(2.0, INF, [], 0.0) == "the norm of its gradient is inf"
    assert harm(2.0, 1.0, [], 10.0) is None


def test_a_spike_is_more_than_so_many_medians():
    usual = [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 90.0]  # one outlier does not move a median
    assert harm(20.0, 1.0, usual, 10.0) is None
    assert "more than 10 times the median 2" in harm(20.1, 1.0, usual, 10.0)
    assert harm(20.1, 1.0, usual, 0.0) is None
    assert harm(20.1, 1.0, usual[:7], 10.0) is None  # too few to speak of a median


def test_remembers_the_last():
    recent = ()
    for number in range(100):
        recent = remembered(recent, float(number))
    assert recent == tuple(map(float, range(100 - REMEMBERED, 100)))
