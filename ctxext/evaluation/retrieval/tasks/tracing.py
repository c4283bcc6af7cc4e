"""Variable tracing: RULER's vt, one chain of four hops.

The chain begins at the depth, and its hops are spread from there to the end of the text. All five
names have to come, in the order of the chain.
"""

import itertools

from ctxext.evaluation.retrieval.tasks._draw import Draw
from ctxext.evaluation.retrieval.tasks._registry import Item, task

_HOPS = 4


@task("a chain of assignments through the text: every variable with the value")
def tracing(draw: Draw, words: dict[str, str], depth: float) -> Item:
    names = draw.codes(_HOPS + 1, 5)
    (value,) = draw.numbers(1, digits=5)
    steps = [words["first"].format(name=names[0], value=value)]
    steps += [
        words["hop"].format(name=name, source=source) for source, name in itertools.pairwise(names)
    ]
    places = [depth + (1 - depth) * hop / (_HOPS + 1) for hop in range(_HOPS + 1)]
    return Item(
        opening=words["opening"],
        needles=tuple(zip(places, steps, strict=True)),
        question=words["question"].format(value=value),
        answers=tuple(f" {name}" for name in names),
        joints=("", *((words["between"],) * _HOPS)),
        unique=(value, *names),
    )
