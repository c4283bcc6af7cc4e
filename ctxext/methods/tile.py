"""Tile: a learned table is repeated, one copy after the other."""

from ctxext.encodings.learned import TableSpec
from ctxext.methods._registry import TableExtension, method
from ctxext.methods._table import by_source


@method(
    formula="E'[p] = E[p mod L]",
    applies_to=("learned",),
    paper="Beltagy et al., Longformer, arXiv:2004.05150, section 5; 'recurrent' in Zhu et al., "
    "LongEmbed, arXiv:2404.12096",
    training="hundreds of steps beyond L, where positions are told twice; short texts stay as is",
    writes="rows of the position table",
    keeps_short=True,
)
def tile(spec: TableSpec, target: int) -> TableExtension:
    """Copy the trained rows again and again, as Longformer was begun.

        E'[p] = E[p mod L],    p = 0 .. L'-1

    What the model knows of near words holds within each copy, and breaks at the seams; two
    positions that are L apart are one to it, until it is trained.

    Args:
        spec: trained rows L.
        target: L', rows to reach.

    Returns:
        `source` (L',), positions of the trained table, 0 to L - 1.
    """
    window = spec.window
    return by_source(spec, target, lambda p: p % window)
