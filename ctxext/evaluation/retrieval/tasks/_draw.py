"""Random names and values, equally long in tokens, so that length is no clue to what is right."""

import importlib.resources
import random
import string
from collections.abc import Callable
from functools import cache

_TRIES = 400


class Draw:
    """Seeded draws for one sample.

    Attributes:
        tokens: how many a string has behind a space, for the model that is asked.
    """

    def __init__(self, seed: str, tokens: Callable[[str], int]) -> None:
        """Seed the draws: the same text gives the same sample, whoever draws it."""
        self.random = random.Random(seed)  # noqa: S311 (no secret is drawn)
        self.tokens = tokens

    def numbers(self, count: int, digits: int) -> list[str]:
        """Draw distinct numbers of so many digits, alike in tokens."""
        low, high = 10 ** (digits - 1), 10**digits - 1
        return self._alike(count, lambda: str(self.random.randint(low, high)))

    def codes(self, count: int, letters: int, alphabet: str = string.ascii_uppercase) -> list[str]:
        """Draw distinct strings of random letters, alike in tokens."""
        return self._alike(count, lambda: "".join(self.random.choices(alphabet, k=letters)))

    def names(self, count: int) -> list[str]:
        """Draw distinct names such as `quiet-lantern`."""
        made: dict[str, None] = {}
        while len(made) < count:
            made["-".join(self.random.choice(words) for words in _words())] = None
        return list(made)

    def depths(self, count: int) -> list[float]:
        """Draw places for needles that are not asked for."""
        return [self.random.random() for _ in range(count)]

    def _alike(self, count: int, make: Callable[[], str]) -> list[str]:
        """Draw until enough of one number of tokens are there; the rest are let go."""
        kept: dict[int, dict[str, None]] = {}
        for _ in range(_TRIES):
            value = make()
            group = kept.setdefault(self.tokens(value), {})
            group[value] = None
            if len(group) == count:
                return list(group)
        largest = max(kept.values(), key=len)  # a tokenizer that cuts every number its own way
        while len(largest) < count:
            largest[make()] = None
        return list(largest)


@cache
def _words() -> tuple[list[str], list[str]]:
    """Read the adjectives and the nouns."""
    import yaml

    file = importlib.resources.files("ctxext.evaluation.retrieval") / "prompts" / "names.yaml"
    lists = yaml.safe_load(file.read_text(encoding="utf-8"))
    return lists["adjectives"].split(), lists["nouns"].split()
