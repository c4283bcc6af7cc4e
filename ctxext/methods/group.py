"""Group: neighbouring positions share one row of a learned table."""

from ctxext.encodings.learned import TableSpec
from ctxext.methods._registry import TableExtension, method
from ctxext.methods._table import by_source


@method(
    formula="E'[p] = E[floor(p L / L')]",
    applies_to=("learned",),
    paper="Zhu et al., LongEmbed, arXiv:2404.12096, section 4 (grouped positions)",
    training="hundreds of steps: within a group only the causal mask tells the order of tokens",
    writes="rows of the position table",
)
def group(spec: TableSpec, target: int) -> TableExtension:
    """Repeat each trained row s = L' / L times, so that s neighbours stand at one position.

        E'[p] = E[floor(p L / L')],    p = 0 .. L'-1

    Every row is one that was trained, which interpolation's are not.

    Args:
        spec: trained rows L.
        target: L', rows to reach.

    Returns:
        `source` (L',), positions of the trained table, 0 to L - 1.
    """
    window = spec.window
    return by_source(spec, target, lambda p: p * window // target)
