"""What a retrieval task is, and the table of all of them."""

import importlib.resources
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from ctxext.choices import suggestion
from ctxext.errors import BadInput
from ctxext.evaluation.retrieval.tasks._draw import Draw

Wording = Literal["full", "compact"]


@dataclass(frozen=True)
class Item:
    """What a task asks, in words, before a haystack is laid around it.

    The model reads `opening`, the haystack with the needles in it, `question`, and then what has
    to come: each answer with the joint before it.

    Attributes:
        needles: (depth, text) of each; depth 0 is the haystack's beginning and 1 its end.
        answers: what has to come, in order.
        joints: text before each answer, given to the model and not scored.
        distractors: wrong answers to choose among, of as many tokens as the only answer.
        unique: strings of which the haystack itself may hold none.
        pairs: makes the lines of a haystack of other needles; None = text or noise.
    """

    opening: str
    needles: tuple[tuple[float, str], ...]
    question: str
    answers: tuple[str, ...]
    joints: tuple[str, ...]
    distractors: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    pairs: Callable[[], str] | None = field(default=None, compare=False)


Make = Callable[[Draw, dict[str, str], float], Item]


@dataclass(frozen=True)
class Task:
    """One registered task.

    Attributes:
        name: its file's name, `--tasks` writes it with dashes.
        asks: what it is, one phrase.
        make: (random draws, wording, depth) -> Item.
    """

    name: str
    asks: str
    make: Make

    def words(self, wording: Wording) -> dict[str, str]:
        """Return the prompt's parts, from `evaluation/retrieval/prompts/NAME.yaml`."""
        return _prompts(self.name)[wording]


TASKS: dict[str, Task] = {}


def task(asks: str) -> Callable[[Make], Make]:
    """Register the function as a task under its file's name, dashes for underscores."""

    def register(make: Make) -> Make:
        name = make.__module__.rpartition(".")[2].replace("_", "-")
        TASKS[name] = Task(name, asks, make)
        return make

    return register


def get_task(name: str) -> Task:
    """Look a task up by its name, in which `_` may stand for `-`.

    Raises:
        BadInput: no such task; the nearest is named.
    """
    match = TASKS.get(name.replace("_", "-"))
    if match is None:
        raise BadInput(
            f"--tasks: there is no task '{name}'",
            suggestion(name, TASKS, f"there is {', '.join(TASKS)}, or all"),
        )
    return match


@cache
def _prompts(name: str) -> dict[Wording, dict[str, str]]:
    import yaml

    file = importlib.resources.files("ctxext.evaluation.retrieval") / "prompts" / f"{name}.yaml"
    prompts: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {wording: prompts[wording] for wording in ("full", "compact")}
