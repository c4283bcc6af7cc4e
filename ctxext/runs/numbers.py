"""Read values out of a config, checked one by one, so that errors name the key."""

import math
from collections.abc import Mapping
from typing import Any

from ctxext.errors import BadInput, shown


def real(block: Mapping[str, Any], key: str, where: str, warnings: list[str]) -> float | None:
    """Read the finite number at `key`; None when absent or null. One in quotes gives a warning.

    Raises:
        BadInput: anything else; true and false are not numbers.
    """
    value = block.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            text, value = value, float(value)
        except ValueError:
            raise BadInput(f"{where}: {key} is {shown(value)}, not a number") from None
        warnings.append(f"{where}: {key} is the string {shown(text)}; read as a number")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{where}: {key} is {shown(value)}, not a number")
    try:
        number = float(value)
    except OverflowError:
        raise BadInput(f"{where}: {key} has more than 308 digits") from None
    if not math.isfinite(number):
        raise BadInput(f"{where}: {key} is {value}, which is not a finite number")
    return number


def whole(block: Mapping[str, Any], key: str, where: str, *, most: int = 2**31 - 1) -> int | None:
    """Read the positive whole number at `key`; None when absent or null. 4096.0 is taken as 4096.

    Raises:
        BadInput: anything else, numbers above `most` included.
    """
    value = block.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise BadInput(f"{where}: {key} is {shown(value)}, and has to be a whole number")
    if not 0 < value <= most:
        size = value if abs(value) < 1e18 else f"{str(value)[:6]}…"
        raise BadInput(f"{where}: {key} is {size}, and has to be between 1 and {most}")
    return int(value)


def finite(value: Any) -> float | None:
    """Return a finite number as a float; None for everything else that a document may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
