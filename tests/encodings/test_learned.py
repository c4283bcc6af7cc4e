import numpy as np
import pytest
import torch

from ctxext.encodings.learned import TableSpec, resampled


def test_rows_between_are_numpy_s_linear_interpolation():
    table = torch.randn(2 + 16, 5, generator=torch.Generator().manual_seed(0))
    source = [min(p / 4, 15) for p in range(64)]
    got = resampled(table, TableSpec(16, offset=2), source)
    assert torch.equal(got[:2], table[:2])
    for dim in range(5):
        want = np.interp(source, range(16), table[2:, dim].double())
        assert np.allclose(got[2:, dim], want, atol=1e-6)


def test_rows_of_whole_positions_are_the_trained_ones_to_the_bit():
    table = torch.randn(8, 3).bfloat16()
    assert torch.equal(
        resampled(table, TableSpec(8), [p % 8 for p in range(24)]), table.repeat(3, 1)
    )


@pytest.mark.parametrize(("rows", "source"), [(8, [8.0]), (8, [-0.1]), (9, [1.0])])
def test_what_lies_outside_is_refused(rows, source):
    with pytest.raises(ValueError):
        resampled(torch.zeros(rows, 2), TableSpec(8), source)
