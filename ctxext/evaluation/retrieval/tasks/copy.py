"""Copying of a far span: the task that needs nothing but induction, so that no size is too small.

A string of random letters stands in the text once; its first letters come again at the end, and the
rest has to follow. Scored is the share of letters that do, each with the truth before it.
"""

import string

from ctxext.evaluation.retrieval.tasks._draw import Draw
from ctxext.evaluation.retrieval.tasks._registry import Item, task

_LETTERS, _CUE = 16, 4


@task("a random string from far back, continued after its first letters")
def copy(draw: Draw, words: dict[str, str], depth: float) -> Item:
    letters = draw.random.sample(string.ascii_letters + string.digits, _LETTERS)
    # Where letters in a row merge into tokens, their boundaries would be a matter of luck.
    apart = "" if draw.tokens("".join(letters)) >= _LETTERS else " "
    whole = apart.join(letters)
    cue = apart.join(letters[:_CUE])
    return Item(
        opening=words["opening"],
        needles=((depth, words["needle"].format(string=whole)),),
        question=words["question"].format(cue=cue),
        answers=tuple(apart + letter for letter in letters[_CUE:]),
        joints=("",) * (_LETTERS - _CUE),
        unique=(cue,),
    )
