"""`ctxext inspect --plot`: the rotary pairs of a checkpoint as a picture."""

import math
from pathlib import Path

from ctxext.api.inspect import InspectResult
from ctxext.encodings.rope import inv_freq_of
from ctxext.errors import BadInput
from ctxext.report.charts.wavelengths import SlowedPairs, Wavelengths, plot_wavelengths
from ctxext.runs.rows.inspect import MethodAtTarget


def plot(inspected: InspectResult, path: Path) -> None:
    """Draw tokens for a turn of each pair against the windows, and what methods do to each.

    Args:
        inspected: what `inspect` gave; methods are drawn where it was given a target.
        path: .png, or .svg for a drawing that follows the light or dark theme of its reader.

    Raises:
        BadInput: the checkpoint does not rotate, or the file's ending is unknown.
    """
    rope, window = inspected.position.rope, inspected.position.stated_window
    bands, name = inspected.bands, inspected.opened.source.name
    if rope is None or rope.inv_freq is None or window is None or bands is None:
        raise BadInput(f"--plot: {name} has no rotary pairs that can be drawn")
    if path.suffix not in (".png", ".svg"):
        raise BadInput(f"--plot {path} has to end in .png or .svg")
    if not path.parent.is_dir():
        raise BadInput(f"--plot {path}: {path.parent} is no folder")
    table = inspected.target
    rows = table.methods if table else ()
    best = table.recommendation.method if table else None
    waves = Wavelengths(
        model=name,
        trained=_tokens(inv_freq_of(rope.spec)),
        now=_tokens(rope.inv_freq),
        bands=bands,
        original=window.original,
        claimed=window.current,
        target=table.tokens if table else None,
        methods=[
            SlowedPairs(row.name, row.factors, _note(row, rope.spec.rope_theta), row.name == best)
            for row in rows
            if row.factors
        ],
        undrawn=[row.name for row in rows if not row.factors],
    )
    plot_wavelengths(path, waves)


def _tokens(inv_freq: list[float]) -> list[float]:
    """Compute tokens for a turn; infinite for a pair that stands still."""
    return [2 * math.pi / f if f else math.inf for f in inv_freq]


def _note(row: MethodAtTarget, theta: float) -> str:
    """Say what a method changes beside the pairs."""
    notes = []
    if row.rope_theta is not None and row.rope_theta != theta:
        notes.append(f"theta {row.rope_theta:,.0f}")
    if row.attention_factor is not None and row.attention_factor != 1:
        notes.append(f"attention factor {row.attention_factor:.4g}")
    if row.follows_length:
        notes.append("follows the length")
    return "\n".join(notes)
