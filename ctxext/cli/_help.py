"""How `--help` is printed: texts as they stand, paragraphs that reflow, no types but our words."""

import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

from ctxext.errors import EMPTY, BadInput

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

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed.

        Raises:
            BadInput: a value is empty, which a path would take for the current folder.
        """
        if ctx.resilient_parsing:  # of a completion, whose last word is not there yet
            return super().parse_args(ctx, args)
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.params:
            value = typed.get(str(parameter.name))
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                word = getattr(parameter, "metavar", None) or str(parameter.name).upper()
                is_argument = isinstance(parameter, TyperArgument)
                name = word.strip("[].") if is_argument else parameter.opts[0]
                raise BadInput(f"{name} is empty", EMPTY)
        return super().parse_args(ctx, args)


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
