import math

import pytest

from ctxext.encodings.rope import RopeSpec, inv_freq_of
from ctxext.errors import BadInput
from ctxext.methods.llama3 import llama3

LLAMA31 = RopeSpec(128, 500_000.0, 8192)


def test_by_hand():
    got, base = llama3(LLAMA31, 65_536).inv_freq, inv_freq_of(LLAMA31)
    assert got[0] == base[0]  # 1304 turns in the window: kept
    assert got[-1] == pytest.approx(base[-1] / 8, rel=1e-12)  # 0.003 turns: interpolated
    # pair 31 turns 8192 * 500000 ** (-62/128) / 2 pi = 2.2635 times: (2.2635 - 1) / 3 kept
    turns = 8192 * base[31] / (2 * math.pi)
    assert turns == pytest.approx(2.2635, abs=1e-4)
    kept = (turns - 1) / 3
    assert got[31] == pytest.approx(base[31] * (kept + (1 - kept) / 8), rel=1e-12)


def test_llama3_refuses_frequencies_out_of_order():
    with pytest.raises(BadInput):
        llama3(LLAMA31, 65_536, low_freq_factor=4, high_freq_factor=4)
