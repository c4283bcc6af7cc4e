"""Key-value lookup (Liu et al., "Lost in the middle", arXiv:2307.03172): nothing but pairs.

The haystack is made of pairs like the one that is asked for, so there is nothing to tell it by but
its key.
"""

import string

from ctxext.evaluation.retrieval.tasks._draw import Draw
from ctxext.evaluation.retrieval.tasks._registry import Item, task

_HEX = string.digits + "abcdef"


@task("one pair among nothing but pairs, asked by its key")
def key_value(draw: Draw, words: dict[str, str], depth: float) -> Item:
    size = int(words["size"])
    keys, values = draw.codes(4, size, _HEX), draw.codes(4, size, _HEX)
    places = [depth, *draw.depths(3)]

    def other() -> str:
        key, value = ("".join(draw.random.choices(_HEX, k=size)) for _ in range(2))
        return words["needle"].format(key=key, value=value) + "\n"

    return Item(
        opening=words["opening"],
        needles=tuple(
            (place, words["needle"].format(key=key, value=value))
            for place, key, value in zip(places, keys, values, strict=True)
        ),
        question=words["question"].format(key=keys[0]),
        answers=(words["answer"].format(value=values[0]),),
        joints=("",),
        distractors=tuple(words["answer"].format(value=value) for value in values[1:]),
        unique=(*keys, *values),
        pairs=other,
    )
