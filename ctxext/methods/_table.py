"""Write what a method for learned tables says: from where each new row comes."""

from collections.abc import Callable

from ctxext.encodings.learned import TableSpec
from ctxext.methods._registry import TableExtension


def by_source(spec: TableSpec, target: int, source: Callable[[int], float]) -> TableExtension:
    """Make the extension whose row for position p is that of `source(p)`.

    Args:
        spec: trained rows L.
        target: L', rows to reach.
        source: position p, 0 to L' - 1 -> position of the trained table, 0 to L - 1.
    """
    return TableExtension(
        parameters={"factor": target / spec.window},
        source=[float(source(p)) for p in range(target)],
        max_position_embeddings=target,
    )
