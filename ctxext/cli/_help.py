"""How `--help` is printed: texts as they stand, paragraphs that reflow, no types but our words."""

import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

_TAG = re.compile(r"\[[a-z#/@][^\[]*?\]")  # what rich would take for markup, as its own `escape`


class Command(TyperCommand):
    """A command with such a help."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.help = _paragraphs(self.help)
        for parameter in self.params:
            text = getattr(parameter, "help", None)
            if text:
                setattr(parameter, "help", _plain(text))  # noqa: B010, options and arguments have it

    def get_params(self, ctx: Any) -> Any:
        """List the parameters, `--help` among them."""
        return _bare(super().get_params(ctx))


class Group(TyperGroup):
    """All commands, with such a help."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.help = _paragraphs(self.help)

    def get_params(self, ctx: Any) -> Any:
        """List the parameters, `--help` and those of completion among them."""
        return _bare(super().get_params(ctx))


def _plain(text: str) -> str:
    """Escape square brackets: no help text holds markup."""
    return _TAG.sub(r"\\\g<0>", text)


def _paragraphs(text: str | None) -> str:
    """Put each paragraph on one line, so that it is broken where the terminal ends."""
    return "\n\n".join(_plain(" ".join(part.split("\n"))) for part in (text or "").split("\n\n"))


def _bare(parameters: Iterable[Any]) -> list[Any]:
    """Take `<bool>` from flags, which have no value, and `<str>` from arguments: MODEL says it."""
    listed = list(parameters)
    for parameter in listed:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        if isinstance(parameter, TyperArgument):
            parameter.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
    return listed
