"""Counting words and tokens: numbers that can be counted with a finger."""

import pytest

from ctxext.evaluation.fertility import count_words, text_cost


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("All human beings are born free.", 6),
        ("don't, won't: twenty-one", 4),
        ("l\N{RIGHT SINGLE QUOTATION MARK}homme", 1),
        ("' quoted '", 1),
        ("", 0),
        ("... --- !", 0),
        ("सभी मनुष्यों को", 3),  # vowel signs are marks inside a word
        ("የሰው፡ልጅ፡ሁሉ", 3),  # the Ethiopic wordspace
        ("모든 인류 구성원의", 3),
        ("זְכוּיוֹת הָאָדָם", 2),
        ("人人生而自由", None),
        ("すべての人間は、生まれながらにして", None),
        ("มนุษย์ทั้งหลาย", None),
        ("လူတိုင်းသည်", None),
        ("the character 人 means person", 4 + 1),
    ],
)
def test_what_counts_as_a_word(text, words):
    assert count_words(text) == words


def test_costs_by_hand():
    # "naïve café": 10 characters, two of them of 2 bytes, 2 words, 4 tokens, one of them unknown.
    cost = text_cost("naïve café", [5, 0, 7, 9], {0})
    assert (cost.characters, cost.bytes, cost.words, cost.tokens) == (10, 12, 2, 4)
    assert cost.unknown == 1
    assert cost.tokens_per_character == pytest.approx(0.4)
    assert cost.tokens_per_byte == pytest.approx(1 / 3)
    assert cost.tokens_per_word == pytest.approx(2.0)
    assert cost.window_characters(1023) == 2557  # 1023 / 0.4 = 2557.5


def test_a_script_without_spaces_has_no_tokens_per_word():
    cost = text_cost("人人生而自由", [1, 2, 3], set())
    assert cost.words is None
    assert cost.tokens_per_word is None
    assert cost.unknown == 0
