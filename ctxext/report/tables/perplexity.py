"""Perplexities: one line for each model, one column for each length or range of positions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from ctxext.lengths import show_length
from ctxext.report.findings.differences import Apart, Difference, gains, nats
from ctxext.report.tables.pivot import MODELS, Across, Table, pivot
from ctxext.report.tables.text import percent, perplexity
from ctxext.runs.rows.perplexity import KeyRow, LengthRow, PerplexityRow, PositionRow

PERPLEXITY_NOTE = "± is one standard error of each number alone; lower is better"
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
    """Show what longer windows gain over the shortest; no lines where they cannot be paired."""
    return pivot(gains(rows), down=MODELS, across=_PLACES, cell=lambda d: nats(d.apart), missing="")


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


def nll_difference_note(differences: Sequence[Difference]) -> str:
    """Say how to read `nll_difference_table`, and only those words that stand in it."""
    against = differences[0].against if differences else ""
    return "; ".join(
        [
            f"nats a token, below 0 where the model predicts better than {against} (0.01 nats are "
            "1 % of perplexity)",
            "± is the 95 % interval, block by block on the same text",
            *marks_told(
                differences,
                noise="the interval holds 0",
                unpaired="the errors of both taken as independent, which is cautious",
            ),
        ]
    )


def marks_told(differences: Sequence[Difference], **meanings: str) -> list[str]:
    """Explain those of the marks `noise` and `unpaired` that a difference has."""
    written = "".join(marks(difference.apart) for difference in differences)
    return [f"({mark}) = {text}" for mark, text in meanings.items() if f"({mark})" in written]


def _nll_cell(difference: Difference) -> str:
    return f"{nats(difference.apart)}{marks(difference.apart)}"


def noise(apart: Apart) -> str:
    """Say where a difference is no more than noise."""
    return " (noise)" if apart.beyond_noise is False else ""


def marks(apart: Apart) -> str:
    """Say where a difference is noise, and where it could not be taken piece by piece."""
    return noise(apart) + ("" if apart.paired else " (unpaired)")


def _by_model(rows: Sequence[Row], cell: Callable[[Row], str]) -> Table:
    return pivot(rows, down=MODELS, across=_PLACES, cell=cell, missing="")
