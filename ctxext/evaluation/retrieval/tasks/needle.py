"""One needle in a haystack: RULER's niah_single (arXiv:2404.06654), a number behind a name."""

from ctxext.evaluation.retrieval.tasks._draw import Draw
from ctxext.evaluation.retrieval.tasks._registry import Item, task


@task("one sentence with a number for a name, asked by the name")
def needle(draw: Draw, words: dict[str, str], depth: float) -> Item:
    (name,) = draw.names(1)
    value, *others = draw.numbers(4, digits=7)
    return Item(
        opening=words["opening"],
        needles=((depth, words["needle"].format(name=name, value=value)),),
        question=words["question"].format(name=name),
        answers=(f" {value}",),
        joints=("",),
        distractors=tuple(f" {other}" for other in others),
        unique=(name, value, *others),
    )
