"""The command `ctxext methods`."""

from typing import TYPE_CHECKING, Annotated

import typer

from ctxext.cli import _options as options
from ctxext.cli._output import out, print_json, table

if TYPE_CHECKING:
    from ctxext.api.methods import MethodRow


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="One method, in full. [default: all]"),
    ] = None,
    json: options.Json = False,
) -> None:
    """Every method that extends a position encoding: formula, training it needs, engines, paper.

    An engine runs a method rightly or not by what its source does with the config that is written.
    NAME shows one method with its parameters, and what each engine makes of it.

    Example: ctxext methods yarn
    """
    from ctxext.api.methods import list_methods

    result = list_methods(name)
    if json:
        print_json(result)
    elif name is None:
        table(
            "",
            ("method", "for", "formula", "training", "right in", "not in", "paper"),
            [
                (
                    row.name,
                    ", ".join(row.applies_to),
                    row.formula,
                    row.training,
                    _right(row),
                    _wrong(row),
                    row.paper,
                )
                for row in result.methods
            ],
            words=True,
        )
    else:
        _render(result.methods[0])


def _right(row: "MethodRow") -> str:
    """Name the engines that run a method, with the releases where not all do."""
    if not row.engines:
        return row.runs_in
    right = [cell for cell in row.engines if cell.verdict in ("ok", "needs version")]
    names = {
        cell.engine: cell.sentence.removeprefix("runs it ")
        for cell in right
        if cell.verdict == "needs version"
    }
    if len(right) == len(row.engines):
        return "; ".join(["all", *(f"{engine} {when}" for engine, when in names.items())])
    return ", ".join(
        f"{cell.engine} ({names[cell.engine]})" if cell.engine in names else cell.engine
        for cell in right
    )


def _wrong(row: "MethodRow") -> str:
    """Name the engines that run a method wrongly, or refuse it."""
    wrong = [cell.engine for cell in row.engines if cell.verdict == "wrong"]
    refuse = [f"{cell.engine} (refuses)" for cell in row.engines if cell.verdict == "refuses"]
    return ", ".join(wrong + refuse)


def _render(row: "MethodRow") -> None:
    console = out()
    console.print(f"{row.name}: {row.summary}")
    for head, text in (
        ("formula", row.formula),
        ("training", row.training),
        ("paper", row.paper),
        ("written as", row.written_as),
        ("for", ", ".join(row.applies_to)),
    ):
        console.print(f"{head}: {text}")
    if row.parameters:
        table(
            "parameters (--set NAME=VALUE)",
            ("name", "default"),
            [(name, _default(row, name)) for name in row.parameters],
            words=True,
        )
    if not row.engines:
        console.print(f"engines: {row.runs_in}; no rope is written")
        return
    table(
        "engines",
        ("engine", "verdict", "what it does", "read in"),
        [(cell.engine, cell.verdict, cell.sentence, cell.source) for cell in row.engines],
        words=True,
    )


def _default(row: "MethodRow", name: str) -> str:
    value = row.parameters[name]
    if name in row.required:
        return "has to be given"
    if value is None:
        return "derived"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()
