"""Numbers as the cells of a table."""

from ctxext.runs.rows.perplexity import PerplexityRow

_LARGE = 1e6  # perplexities from here on are shown as powers of ten


def shown(value: float | None, form: str) -> str:
    """Write a number, or a dash for one that is not there."""
    return "–" if value is None else format(value, form)


def percent(value: float | None, form: str = ".0f") -> str:
    """Write a share as `42 %`, or a dash."""
    return "–" if value is None else f"{100 * value:{form}} %"


def perplexity(row: PerplexityRow) -> str:
    """Write `4.321 ± 0.056`: the standard error of the NLL carried over to the perplexity."""
    value = row.perplexity
    if value is None:
        return "–"
    form = f".{max(0, 3 - len(str(int(value)))) + 1}f" if value < _LARGE else ".2e"
    error = "" if row.stderr is None else f" ± {value * row.stderr:{form}}"
    return f"{value:{form}}{error}"
