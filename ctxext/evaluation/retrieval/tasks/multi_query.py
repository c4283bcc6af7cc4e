"""Four needles, all asked for: RULER's niah_multiquery. The first asked stands at the depth."""

from ctxext.evaluation.retrieval.tasks._draw import Draw
from ctxext.evaluation.retrieval.tasks._registry import Item, task


@task("four names with a number each, all asked for")
def multi_query(draw: Draw, words: dict[str, str], depth: float) -> Item:
    names, values = draw.names(4), draw.numbers(4, digits=7)
    places = [depth, *draw.depths(3)]
    listed = f"{', '.join(names[:-1])}, and {names[-1]}"
    return Item(
        opening=words["opening"],
        needles=tuple(
            (place, words["needle"].format(name=name, value=value))
            for place, name, value in zip(places, names, values, strict=True)
        ),
        question=words["question"].format(names=listed),
        answers=tuple(f" {value}" for value in values),
        joints=("", ",", ",", ", and"),
        unique=(*names, *values),
    )
