"""Tell which rows of a learned position table an extension made anew."""

from ctxext.encodings.learned import TableSpec
from ctxext.errors import BadInput
from ctxext.methods import METHODS, TableExtension
from ctxext.runs.rows.record import RunRecord


def new_rows(record: RunRecord | None, rows: int) -> list[bool]:
    """Mark the rows that are not those of the trained table, by what `ctxext extend` wrote down.

    Every trained row has one place that is its own, the first that is made of it alone; there the
    model's knowledge of that position lives on. What stands between two of them, and what repeats
    one (`tile`, `group`, the end of `interpolate`), is new.

    Args:
        record: the checkpoint's ctxext.json.
        rows: of the table as it is now.

    Returns:
        (rows,); all True where nothing is recorded, or another table than this one.
    """
    every = [True] * rows
    if record is None or record.window is None or record.method not in METHODS:
        return every
    window, target = record.window.original, record.window.target
    method, offset = METHODS[record.method], rows - target
    if "learned" not in method.applies_to or offset < 0 or target <= window:
        return every
    given = {name: record.parameters[name] for name in method.parameters if name in (
        record.parameters or {})}  # fmt: skip
    try:
        extension = method(TableSpec(window, offset), target, **given)
    except BadInput:  # the record of another version
        return every
    if not isinstance(extension, TableExtension):
        return every
    marks, placed = [False] * offset, set()
    for source in extension.source:
        first = float(source).is_integer() and source not in placed
        placed.add(source)
        marks.append(not first)
    return marks
