"""Fertility: what a text costs a tokenizer, and how far a window reaches in it.

Tokens per character, per byte and per word of one text; the same text in another language over
this one is the "premium" of Petrov et al. (arXiv:2305.15425).
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

# Scripts that put no space between words, by the first word of their letters' Unicode names.
UNSPACED = frozenset(
    ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
)
# Inside a word: apostrophes, the middle dot of Catalan, Hebrew's geresh and gershayim, joiners.
_INNER = "'\N{RIGHT SINGLE QUOTATION MARK}\N{MIDDLE DOT}\u05f3\u05f4\u200c\u200d\u00ad"
_WORD = re.compile("w+(?:i+w+)*")


@dataclass(frozen=True)
class TextCost:
    """What one text costs in one tokenizer.

    Attributes:
        characters: Unicode code points; `bytes`: of its UTF-8.
        words: None where the script puts no spaces between them.
        tokens: without any that the tokenizer puts around a text.
        unknown: those of them that stand for text the tokenizer does not know, and loses.
    """

    characters: int
    bytes: int
    words: int | None
    tokens: int
    unknown: int

    @property
    def tokens_per_character(self) -> float:
        return self.tokens / self.characters

    @property
    def tokens_per_byte(self) -> float:
        return self.tokens / self.bytes

    @property
    def tokens_per_word(self) -> float | None:
        return self.tokens / self.words if self.words else None

    def window_characters(self, window: int) -> int:
        """Count the characters of this text that a window of so many tokens holds, rounded down."""
        return window * self.characters // self.tokens


def text_cost(text: str, ids: Sequence[int], unknown: Collection[int]) -> TextCost:
    """Count a text; `ids` are its tokens, `unknown` the ids that mean "not known"."""
    return TextCost(
        characters=len(text),
        bytes=len(text.encode("utf-8", "surrogatepass")),
        words=count_words(text),
        tokens=len(ids),
        unknown=sum(token in unknown for token in ids) if unknown else 0,
    )


def count_words(text: str) -> int | None:
    """Count runs of letters, marks and digits; None for a script without spaces between words.

    An apostrophe inside a word belongs to it, a hyphen parts two. A text counts as without spaces
    when half of its letters are of such a script.

    >>> count_words("Don't count twenty-one."), count_words("人人生而自由")
    (4, None)
    """
    kinds: dict[int, str] = {}
    unspaced = letters = 0
    for character in set(text):
        category = unicodedata.category(character)
        if character in _INNER:
            kinds[ord(character)] = "i"
        elif category[0] in "LMN":
            kinds[ord(character)] = "w"
        else:
            kinds[ord(character)] = " "
        if category[0] == "L":
            count = text.count(character)
            letters += count
            if unicodedata.name(character, "").split(" ")[0].split("-")[0] in UNSPACED:
                unspaced += count
    if letters and 2 * unspaced >= letters:
        return None
    return len(_WORD.findall(text.translate(kinds)))
