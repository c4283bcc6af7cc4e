"""Words of which a known few are right."""

from typing import Literal

import pytest

from ctxext.choices import check_word, suggestion
from ctxext.errors import BadInput

Fruit = Literal["apple", "pear", "plum"]


def test_a_word_that_is_none_of_the_literals_is_refused_with_all_of_them():
    check_word("pear", Fruit, "--fruit")
    with pytest.raises(BadInput, match=r"^--fruit is 'nut', and has to be apple, pear or plum$"):
        check_word("nut", Fruit, "--fruit")
    with pytest.raises(BadInput, match="--fruit is None"):
        check_word(None, Fruit, "--fruit")


def test_the_nearest_words_are_offered_and_else_what_there_is():
    known = ["apple", "pear", "plum"]
    assert suggestion("Peer", known) == "did you mean pear?"
    assert suggestion("lum", known, most=3) == "did you mean plum?"
    assert suggestion(7, known) == "known: apple, pear, plum"
    assert suggestion("xyz", known, "take an apple") == "take an apple"
