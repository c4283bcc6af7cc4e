"""Say at a field what sections and rows may hold there, and check it in one place."""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, field, fields
from typing import Any

from ctxext.errors import BadInput, shown

TOKENS = "tokens"
MOST_TOKENS = 2**31 - 1
"""Of a length or a count of tokens in one row or window; texts may be longer."""


def bounded(
    default: Any = MISSING,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    words: tuple[str, ...] = (),
    matches: str = "",
    unit: str = "",
) -> Any:
    """Make a dataclass field whose value has bounds.

    Args:
        least, most: included; `above`, `below`: not.
        words: the only ones that it may be.
        matches: a regular expression that a text matches as a whole.
        unit: `tokens` for fields that accept 32k in a recipe.
    """
    bounds = {"least": least, "above": above, "most": most, "below": below}
    given = {name: value for name, value in bounds.items() if value is not None}
    metadata = {
        "bounds": given, "words": words, "matches": re.compile(matches) if matches else None,
        "unit": unit,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


def only_with(partner: str, **bounds: Any) -> Any:
    """Make a field that is None, and is not written, where its partner (or itself) is None.

    Args:
        bounds: as of `bounded`.
    """
    return field(default=None, metadata={**bounded(**bounds).metadata, "only_with": partner})


def check_bounds(section: Any, name: str) -> None:
    """Check that every field of a dataclass, called `name`, is within its bounds, or None.

    Raises:
        BadInput: the first field that is outside, with its bounds; or a number that is not finite.
    """
    for each in fields(section):
        value, where = getattr(section, each.name), f"{name}.{each.name}"
        words = each.metadata.get("words", ())
        if words and value not in words:
            raise BadInput(
                f"{where} is {shown(value)}; there is {' and '.join(words)}", argument=each.name
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        bounds = each.metadata.get("bounds", {})
        if not (isinstance(value, int) or math.isfinite(value)) or not inside(value, bounds):
            raise BadInput(
                f"{where} is {shown(value)}, and has to be {_said(bounds)}", argument=each.name
            )


def inside(value: float, bounds: Mapping[str, float]) -> bool:
    """Tell whether a number is within the bounds of a field."""
    return (
        value >= bounds.get("least", value)
        and value <= bounds.get("most", value)
        and ("above" not in bounds or value > bounds["above"])
        and ("below" not in bounds or value < bounds["below"])
    )


def _said(bounds: Mapping[str, float]) -> str:
    """Write bounds as `at least 1 and at most 16384`, `positive and at most 100` and the like."""
    parts = []
    if "least" in bounds:
        parts.append(f"at least {bounds['least']:.15g}")
    if "above" in bounds:
        parts.append("positive" if bounds["above"] == 0 else f"above {bounds['above']:.15g}")
    if "most" in bounds:
        parts.append(f"at most {bounds['most']:.15g}")
    if "below" in bounds:
        parts.append(f"below {bounds['below']:.15g}")
    return " and ".join(parts) or "a finite number"
