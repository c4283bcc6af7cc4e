"""Cards by name: what torch can use of them, and which are refused."""

import re

import pytest

from ctxext.errors import BadInput
from ctxext.machine.gpus import GPUS, get_gpu


def test_a_card_has_less_than_its_name_says():
    """Within a tenth: drivers and error correction take a few percent."""
    for name, card in GPUS.items():
        stated = int(re.search(r"-(\d+)gb$", name)[1])
        assert 0.9 * stated < card.memory_gib < stated, name


@pytest.mark.parametrize("name", ["t4-16gb", "v100-32gb", "v100-16gb", "T4", "p100-16gb"])
def test_cards_without_bfloat16_are_refused(name):
    with pytest.raises(BadInput, match="has no bfloat16") as caught:
        get_gpu(name)
    assert "l4-24gb" in caught.value.hint


def test_an_unknown_card():
    with pytest.raises(BadInput, match="not known") as caught:
        get_gpu("h100")
    assert caught.value.hint == "did you mean h100-80gb?"
