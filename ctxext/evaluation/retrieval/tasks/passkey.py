"""Passkey retrieval (Mohtashami and Jaggi, arXiv:2305.16300), as YaRN and LongLoRA report it."""

from ctxext.evaluation.retrieval.tasks._draw import Draw
from ctxext.evaluation.retrieval.tasks._registry import Item, task


@task("a five-digit pass key hidden in irrelevant text")
def passkey(draw: Draw, words: dict[str, str], depth: float) -> Item:
    key, *others = draw.numbers(4, digits=5)
    return Item(
        opening=words["opening"],
        needles=((depth, words["needle"].format(value=key)),),
        question=words["question"],
        answers=(f" {key}",),
        joints=("",),
        distractors=tuple(f" {other}" for other in others),
        unique=(key, *others),
    )
