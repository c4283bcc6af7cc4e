"""A task's item laid into a haystack so that prompt and answer have exactly a length, in tokens."""

import bisect
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ctxext.checkpoints.live.tokenizer import tokenizer_errors
from ctxext.errors import BadInput
from ctxext.evaluation.retrieval.haystack import Haystack, hide, pair_haystack, unit_ends
from ctxext.evaluation.retrieval.tasks import Item

_SLACK = 4  # tokens that a prompt may fall short of its length: no word is cut
_ROUNDS = 12


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt: token ids, and which of them belong to each answer."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Question:
    """An item as token ids.

    Attributes:
        prompt: all that stands before the first token of the answer.
        wrong: continuations with a distractor in the answer's place.
        without: the prompt of (nearly) the same length whose haystack has no needle.
        text: the prompt in words.
    """

    prompt: tuple[int, ...]
    truth: Continuation
    wrong: tuple[Continuation, ...]
    without: tuple[int, ...]
    text: str
    answers: tuple[str, ...]


class Encoder:
    """A tokenizer, asked for ids as it gives them by itself, less an end-of-text at their end."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        closed = tokenizer("a", verbose=False)["input_ids"]
        end = tokenizer.eos_token_id
        self._closes = len(closed) > 1 and end is not None and closed[-1] == end

    def __call__(self, text: str) -> list[int]:
        """Encode a whole text."""
        with tokenizer_errors("the checkpoint"):
            ids = list(self._tokenizer(text, verbose=False)["input_ids"])
        return ids[:-1] if self._closes else ids

    def places(self, text: str, characters: Sequence[int]) -> tuple[list[int], list[int]]:
        """Encode a text, and find the first token that ends behind each of some characters.

        A token that lies over such a place belongs to what comes after it.
        """
        if not self._tokenizer.is_fast:
            ids = self(text)
            return ids, [len(_shared(self(text[:at]), ids)) for at in characters]
        with tokenizer_errors("the checkpoint"):
            encoded = self._tokenizer(text, verbose=False, return_offsets_mapping=True)
        ids, ends, last = list(encoded["input_ids"]), [], 0
        for _, end in encoded["offset_mapping"]:
            last = max(last, end)  # special tokens end at 0
            ends.append(last)
        if self._closes:
            ids, ends = ids[:-1], ends[:-1]
        return ids, [bisect.bisect_right(ends, at) for at in characters]

    def lacks(self, text: str) -> bool:
        """Tell whether the tokenizer writes part of a text as "unknown"."""
        unknown = self._tokenizer.unk_token_id
        return unknown is not None and unknown in self(text)

    def size(self, word: str) -> int:
        """Count the tokens of a word behind a space."""
        return len(self(f"a {word}")) - len(self("a"))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special ones left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))


def own_tokens(item: Item, encode: Encoder) -> int:
    """Count the tokens of everything but the haystack."""
    return len(encode(_compose(item, "", item.needles, _answer(item, item.answers))))


def fit(
    item: Item, haystack: Haystack, encode: Encoder, length: int, *, seed: str, reserve: int = 0
) -> Question:
    """Lay an item into a haystack.

    Args:
        haystack: where the text comes from; items of pairs bring their own.
        length: tokens of prompt and answer together, at most; they fall short of it by a few.
        seed: the same text gives the same haystack.
        reserve: tokens of the length that are kept free (for generated text).

    Raises:
        BadInput: the item alone is longer; the haystack always holds what is asked for.
    """
    missing = own_tokens(item, encode) - (length - reserve)
    if missing > 0:
        raise BadInput(f"{length} tokens are too few: the words alone take {missing} more")
    if item.pairs is not None:
        haystack = pair_haystack(item.pairs)
    answer = _answer(item, item.answers)
    straw = _Straw(haystack, random.Random(seed), item.unique, encode, length)  # noqa: S311
    text = straw.fill(item, item.needles, answer, length - reserve)
    bare = straw.fill(item, (), answer, length - reserve)
    edges, at = [], len(text)
    for joint, said in zip(item.joints, item.answers, strict=True):
        edges += [at + len(joint), at + len(joint) + len(said)]
        at = edges[-1]
    ids, places = encode.places(text + answer, edges)
    others = [encode(text + _answer(item, (other,))) for other in item.distractors]
    begin = places[0]
    for other in others:  # candidates differ from their first token on, wherever tokens are cut
        begin = min(begin, len(_shared(ids, other)))
    bare_ids, (bare_begin,) = encode.places(bare + answer, [len(bare) + len(item.joints[0])])
    spans = [
        (start - begin, max(end, start + 1) - begin)
        for start, end in zip(places[::2], places[1::2], strict=True)
    ]
    if begin < places[0]:
        spans[0] = (0, spans[0][1])
    return Question(
        prompt=tuple(ids[:begin]),
        truth=Continuation(tuple(ids[begin:]), tuple(spans)),
        wrong=tuple(Continuation(tuple(o[begin:]), ((0, len(o) - begin),)) for o in others),
        without=tuple(bare_ids[: bare_begin - (places[0] - begin)]),
        text=text,
        answers=item.answers,
    )


class _Straw:
    """One haystack's text, cut to the number of words that fills a length."""

    def __init__(
        self,
        haystack: Haystack,
        draw: random.Random,
        unique: Sequence[str],
        encode: Encoder,
        length: int,
    ) -> None:
        self._text = haystack(draw, 64 + 8 * length, unique)
        self._ends = unit_ends(self._text)
        self._encode = encode
        few = self._ends[min(200, len(self._ends) - 1)]
        self._per_unit = max(0.2, len(encode(self._text[:few])) / min(200, len(self._ends) - 1))

    def fill(
        self, item: Item, needles: tuple[tuple[float, str], ...], answer: str, length: int
    ) -> str:
        """Find the prompt whose tokens, with the answer's, are `length` or a few less."""
        low, high = 0, len(self._ends) - 1  # units that fit, and the most that may
        best = _compose(item, "", needles, "")
        alone = len(self._encode(best + answer))
        units = min(high, int((length - alone) / self._per_unit))
        for _ in range(_ROUNDS):
            prompt = _compose(item, self._text[: self._ends[units]], needles, "")
            size = len(self._encode(prompt + answer))
            if size <= length:
                best, low = prompt, units
                if length - size <= _SLACK:
                    break
            else:
                high = units - 1
            if low >= high:
                break
            step = int((length - size) / self._per_unit)
            units = min(max(units + step, low + 1), high)
        return best


def _compose(item: Item, straw: str, needles: Sequence[tuple[float, str]], answer: str) -> str:
    opening = f"{item.opening}\n" if item.opening else ""
    hay = hide(straw, needles).rstrip()
    return f"{opening}{hay}\n{item.question}{answer}"


def _answer(item: Item, answers: Sequence[str]) -> str:
    return "".join(joint + answer for joint, answer in zip(item.joints, answers, strict=False))


def _shared(ids: Sequence[int], other: Sequence[int]) -> list[int]:
    """Return the ids that two texts have in common at their beginning."""
    for index, (a, b) in enumerate(zip(ids, other, strict=False)):
        if a != b:
            return list(ids[:index])
    return list(ids[: min(len(ids), len(other))])
