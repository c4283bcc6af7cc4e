"""Numbers as the cells of a table."""

from typing import Protocol

_LARGE = 1e6  # perplexities from here on are shown as powers of ten


class HasPerplexity(Protocol):
    """A row with a perplexity, and the standard error of its NLL."""

    @property
    def perplexity(self) -> float | None: ...
    @property
    def stderr(self) -> float | None: ...


def shown(value: float | None, form: str) -> str:
    """Write a number, or a dash for one that is not there."""
    return "–" if value is None else format(value, form)


def percent(value: float | None, form: str = ".0f") -> str:
    """Write a share as `42 %`, or a dash."""
    return "–" if value is None else f"{100 * value:{form}} %"


def perplexity(row: HasPerplexity) -> str:
    """Write `4.321 ± 0.056`: the standard error of the NLL carried over to the perplexity."""
    value = row.perplexity
    if value is None:
        return "–"
    form = f".{max(0, 3 - len(str(int(value)))) + 1}f" if value < _LARGE else ".2e"
    error = "" if row.stderr is None else f" ± {value * row.stderr:{form}}"
    return f"{value:{form}}{error}"


def measured(value: float | None, stderr: float | None, form: str = ".3f") -> str:
    """Write `2.420 ± 0.020`, or a dash."""
    error = "" if value is None or stderr is None else f" ± {stderr:{form.removeprefix('+')}}"
    return shown(value, form) + error
