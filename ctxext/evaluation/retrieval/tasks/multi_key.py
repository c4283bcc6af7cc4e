"""Four needles, one asked for: RULER's niah_multikey_1. The other three are the wrong answers."""

from ctxext.evaluation.retrieval.tasks._draw import Draw
from ctxext.evaluation.retrieval.tasks._registry import Item, task


@task("four names with a number each, one name asked for")
def multi_key(draw: Draw, words: dict[str, str], depth: float) -> Item:
    names, values = draw.names(4), draw.numbers(4, digits=7)
    places = [depth, *draw.depths(3)]
    return Item(
        opening=words["opening"],
        needles=tuple(
            (place, words["needle"].format(name=name, value=value))
            for place, name, value in zip(places, names, values, strict=True)
        ),
        question=words["question"].format(name=names[0]),
        answers=(f" {values[0]}",),
        joints=("",),
        distractors=tuple(f" {value}" for value in values[1:]),
        unique=(*names, *values),
    )
