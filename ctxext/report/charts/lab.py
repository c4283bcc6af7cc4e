"""The laboratory's pictures as files: one that teaches, and a small one for each statement."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ctxext.lengths import show_length
from ctxext.report.charts.encodings import (
    order_panel,
    position_panel,
    reading_panel,
    recall_panel,
)
from ctxext.report.charts.extensions import extension_panels, pair_panels, steps_panel
from ctxext.report.charts.panels import Panel, beside
from ctxext.report.charts.standalone import write_svg
from ctxext.report.charts.style import plain_text, save_figure
from ctxext.report.charts.svg import Chart
from ctxext.runs.rows.lab import LabResult

_OVERVIEW: Final = "lab"
# What is said of each encoding, for who looks at its own picture.
_ABOUT: Final = {
    "sinusoidal": "Sinusoids: defined past the window, and not understood there",
    "learned": "A learned table: no row past the last one",
    "rope": "RoPE as trained, read past its window",
    "alibi": "ALiBi: fluent past the window, but does it read?",
    "none": "No position at all",
}


def plot_lab(folder: Path, result: LabResult) -> list[Path]:
    """Draw all pictures of a laboratory into its folder.

    `lab.svg` and `lab.png` are for a reader who sees one; `lab-order`, `lab-pairs`,
    `lab-extensions`, `lab-steps`, `lab-reading` and `lab-ENCODING` (.svg) are for one statement
    each. What was not measured has no picture. SVGs follow the theme of whoever looks at them.

    Returns:
        The files, in the order above.
    """
    written = []
    for name, chart in lab_charts(result).items():
        path = folder / f"{name}.svg"
        write_svg(path, chart, name)
        written.append(path)
        if name == _OVERVIEW:
            with plain_text():
                save_figure(chart.draw(), path.with_suffix(".png"))
            written.append(path.with_suffix(".png"))
    return written


def lab_charts(result: LabResult) -> dict[str, Chart]:
    """Make the charts by the names of their files."""
    trained = f"trained at {show_length(result.train_length)} tokens"
    asked: list[tuple[str, str, Sequence[Panel | None]]] = [
        (_OVERVIEW, f"Small decoders that differ in how they know positions, {trained}",
         [position_panel(result), recall_panel(result)]),
        ("lab-order", f"Is order seen? Decoders {trained}",
         [order_panel(result)]),
        ("lab-pairs", f"Rotary pairs, one at a time: a RoPE decoder {trained}",
         pair_panels(result)),
        ("lab-extensions", f"RoPE {trained}, stretched by each method", extension_panels(result)),
        ("lab-steps", f"How soon a method reads far: RoPE {trained}",
         [steps_panel(result)]),
        ("lab-reading", f"Fluent is not reading: decoders {trained}",
         [reading_panel(result)]),
        *(
            (f"lab-{name}", f"{about} ({trained})",
             [position_panel(result, name), recall_panel(result, name)])
            for name, about in _ABOUT.items()
            if name in result.encodings
        ),
    ]  # fmt: skip
    charts = {}
    for name, title, panels in asked:
        drawn = [panel for panel in panels if panel is not None]
        if drawn:
            charts[name] = beside(title, drawn)
    return charts
