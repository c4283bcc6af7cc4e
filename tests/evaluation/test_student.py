import pytest

from ctxext.evaluation.statistics.student import student_p


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (30, 2.042)],
)
def test_the_printed_table_at_five_per_cent(freedom, t):
    assert student_p(t, freedom) == pytest.approx(0.05, abs=1e-4)
    assert student_p(-t, freedom) == student_p(t, freedom)
    assert student_p(0.0, freedom) == 1.0


def test_infinity_and_no_freedom():
    assert student_p(float("inf"), 3) == 0.0
    with pytest.raises(ValueError):
        student_p(1.0, 0)
