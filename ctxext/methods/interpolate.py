"""Interpolate: a learned table's rows are spread over the longer window, and filled in between."""

from ctxext.encodings.learned import TableSpec
from ctxext.methods._registry import TableExtension, method
from ctxext.methods._table import by_source


@method(
    formula="E'[p] = E[min(p L / L', L - 1)], linear between two rows",
    applies_to=("learned",),
    paper="Zhu et al., LongEmbed, arXiv:2404.12096, section 4; after Chen et al., Position "
    "Interpolation, arXiv:2306.15595",
    training="hundreds of steps: every row but the first moves; the position rows alone may do",
    writes="rows of the position table",
    default_for=("learned",),
)
def interpolate(spec: TableSpec, target: int) -> TableExtension:
    """Spread the trained rows evenly over the target, and put means between them.

        x = min(p L / L', L - 1),    p = 0 .. L'-1
        E'[p] = (1 - x + floor(x)) E[floor(x)] + (x - floor(x)) E[floor(x) + 1]

    With s = L' / L a whole number E'[i s] = E[i]; the rows after (L - 1) s are the last one. No
    position is new, but neighbours are nearer to each other than the model ever saw them.

    Args:
        spec: trained rows L.
        target: L', rows to reach.

    Returns:
        `source` (L',), positions of the trained table, 0 to L - 1.
    """
    window = spec.window
    return by_source(spec, target, lambda p: min(p * window / target, window - 1))
