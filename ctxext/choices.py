"""Check words of which a known few are right, and suggest which was meant."""

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from ctxext.errors import BadInput, shown


def suggestion(word: object, known: Iterable[str], otherwise: str = "", *, most: int = 1) -> str:
    """Suggest the known words nearest to an unknown one, or list what there is.

    >>> suggestion("yarm", ["yarn", "linear"])
    'did you mean yarn?'
    >>> suggestion("x", ["yarn", "linear"])
    'known: yarn, linear'

    Args:
        otherwise: the sentence where none is near; "" = a list of what is known.
        most: nearest words to offer.
    """
    words = list(known)
    near = difflib.get_close_matches(str(word).lower(), words, n=most)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return otherwise or f"known: {', '.join(words)}"


def check_word(word: object, words: Any, name: str) -> None:
    """Refuse a word, called `name` (`--protocol`), that is none of a `Literal`'s `words`.

    Raises:
        BadInput: naming all words that are right.
    """
    known = [str(each) for each in get_args(words)]
    if word not in known:
        listed = f"{', '.join(known[:-1])} or {known[-1]}"
        raise BadInput(f"{name} is {shown(word)}, and has to be {listed}")
