"""`ctxext methods`: every way to extend a position encoding, and what runs it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ctxext.api._arguments import checked
from ctxext.engines import ENGINES, Verdict, cell
from ctxext.methods import METHODS, Method, get_method
from ctxext.runs.rows.row import Document, Row


@dataclass(frozen=True, kw_only=True)
class EngineCell(Row):
    """What one engine makes of one method.

    Attributes:
        source: repository and file where that was read.
        releases: verdict by release, for engines of which releases are told apart.
    """

    engine: str
    verdict: Verdict
    sentence: str
    source: str
    releases: Mapping[str, Verdict]


@dataclass(frozen=True, kw_only=True)
class MethodRow(Row):
    """The facts of one method.

    Attributes:
        summary: what it does, a sentence.
        since: the first transformers release that computes it rightly; `any` for all.
        written_as: the `rope_type` of the config, the key at its top that does the work, or what
            else is written.
        default_for: the encodings for which it is taken where no method is named.
        parameters: what `--set` takes, with the defaults; null = derived, or `required`.
        engines: empty where no rope is written.
        runs_in: what runs the result then, in words.
    """

    name: str
    summary: str
    formula: str
    training: str
    paper: str
    applies_to: tuple[str, ...]
    default_for: tuple[str, ...]
    written_as: str
    since: str
    parameters: Mapping[str, Any]
    required: tuple[str, ...]
    engines: tuple[EngineCell, ...]
    runs_in: str


@dataclass(frozen=True, kw_only=True)
class MethodsResult(Document):
    """What `ctxext methods` lists."""

    schema: ClassVar[str] = "ctxext.methods/1"
    methods: tuple[MethodRow, ...]


@checked
def list_methods(name: str | None = None) -> MethodsResult:
    """List every method, or one, with its facts and what each engine makes of it.

    Args:
        name: a method; None = all of them.

    Raises:
        BadInput: there is no such method.
    """
    chosen = [get_method(name)] if name is not None else [METHODS[key] for key in sorted(METHODS)]
    return MethodsResult(methods=tuple(map(_row, chosen)))


def _row(method: Method) -> MethodRow:
    cells = [cell(engine, method) for engine in ENGINES] if method.of_rope else []
    return MethodRow(
        name=method.name,
        summary=method.summary,
        formula=method.formula,
        training=method.training,
        paper=method.paper,
        applies_to=method.applies_to,
        default_for=method.default_for,
        written_as=method.written_as,
        since=method.since,
        parameters=method.parameters,
        required=method.required,
        engines=tuple(EngineCell(**vars(each)) for each in cells),
        runs_in="" if method.of_rope else method.runs_in,
    )
