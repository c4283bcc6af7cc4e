"""Four numbers for one name, all asked for: RULER's niah_multivalue.

The first stands at the depth, the others anywhere behind it. With the truth before each, they are
scored in the order of the text.
"""

from ctxext.evaluation.retrieval.tasks._draw import Draw
from ctxext.evaluation.retrieval.tasks._registry import Item, task


@task("four numbers for one name, all asked for")
def multi_value(draw: Draw, words: dict[str, str], depth: float) -> Item:
    (name,) = draw.names(1)
    values = draw.numbers(4, digits=7)
    places = [depth, *sorted(depth + (1 - depth) * place for place in draw.depths(3))]
    return Item(
        opening=words["opening"],
        needles=tuple(
            (place, words["needle"].format(name=name, value=value))
            for place, value in zip(places, values, strict=True)
        ),
        question=words["question"].format(name=name),
        answers=tuple(f" {value}" for value in values),
        joints=("", ",", ",", ", and"),
        unique=(name, *values),
    )
