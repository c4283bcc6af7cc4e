"""Perplexities: one line for each model, one column for each length or range of positions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from ctxext.lengths import show_length
from ctxext.report.findings.differences import Difference
from ctxext.report.tables.pivot import MODELS, Across, Table, pivot
from ctxext.report.tables.text import percent, perplexity
from ctxext.runs.rows.perplexity import KeyRow, LengthRow, PerplexityRow, PositionRow

NLL_NOTE = (
    "nats per token, ± 1.96 sqrt(se1² + se2²); (noise) = that interval holds 0. Both scored the "
    "same text, so their errors go together and this is cautious."
)
Row = TypeVar("Row", bound=PerplexityRow)


def show_place(place: tuple[int, ...]) -> str:
    """Write `2k` or `256-512`."""
    return "-".join(show_length(n) for n in place)


_PLACES = Across(lambda row: row.place, head=show_place)


def by_length_table(rows: Sequence[LengthRow]) -> Table:
    """Show perplexity by window length."""
    return _by_model(rows, perplexity)


def by_position_table(rows: Sequence[PositionRow]) -> Table:
    """Show perplexity by ranges of positions."""
    return _by_model(rows, perplexity)


def bits_per_byte_table(rows: Sequence[LengthRow]) -> Table:
    """Show what tokenizers do not change; no lines where it is unknown."""
    known = [row for row in rows if row.bits_per_byte is not None]
    return _by_model(known, lambda row: f"{row.bits_per_byte:.4f}")


def gain_table(rows: Sequence[LengthRow]) -> Table:
    """Show what longer windows gain on the same tokens; no lines unless aligned."""
    return _by_model([row for row in rows if row.gain is not None], _gain)


def _gain(row: LengthRow) -> str:
    return f"{row.gain:+.3f}" + ("" if row.gain_stderr is None else f" ± {row.gain_stderr:.3f}")


def key_tokens_table(rows: Sequence[KeyRow]) -> Table:
    """Show LongPPL by length, and the share of tokens it is taken over."""
    return _by_model(rows, _long_perplexity)


def _long_perplexity(row: KeyRow) -> str:
    if row.perplexity is None:
        return "no key token"
    return f"{perplexity(row)} ({percent(row.share, '.2g')} of tokens)"


def nll_difference_table(differences: Sequence[Difference]) -> Table:
    """Show one line for each model but the first."""
    against = differences[0].against if differences else ""
    down = replace(MODELS, heads=[f"model, minus {against}"])
    return pivot(differences, down=down, across=_PLACES, cell=_nll_cell)


def _nll_cell(difference: Difference) -> str:
    margin = "" if difference.high is None else f" ± {difference.high - difference.difference:.3f}"
    return f"{difference.difference:+.3f}{margin}{noise(difference)}"


def noise(difference: Difference) -> str:
    """Say where a difference is no more than noise."""
    return " (noise)" if difference.beyond_noise is False else ""


def _by_model(rows: Sequence[Row], cell: Callable[[Row], str]) -> Table:
    return pivot(rows, down=MODELS, across=_PLACES, cell=cell, missing="")
