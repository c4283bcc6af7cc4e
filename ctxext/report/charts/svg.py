"""A matplotlib figure as an SVG that lives inside a page: themed, named, with numbers to point at.

Text stays text. Black becomes `currentColor` and the other colours of the style CSS variables, so
that one drawing does for light and dark pages.
"""

import io
import re
import xml.etree.ElementTree as ET  # what is parsed was written by matplotlib a moment ago
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ctxext.report.charts.style import COLORS, plain_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_HREF = "{http://www.w3.org/1999/xlink}href"
_VARIABLES = {
    "#000000": "currentColor",
    "#dddddd": "var(--grid)",
    "#cccccc": "var(--grid)",
    "#eeeeee": "var(--band)",
    "#f6f6f6": "var(--band-pale)",
    "#555555": "var(--muted)",
    "#666666": "var(--muted)",
    "#767676": "var(--neutral)",
    "#aaaaaa": "var(--pale)",
    "#ffffff": "var(--surface)",
    **{color.lower(): f"var(--curve-{i})" for i, color in enumerate(COLORS) if i},
}
_HEX = re.compile(r"#[0-9a-fA-F]{6}\b")
_LONG = re.compile(r"-?\d+\.\d{3,}")
_FONTS = re.compile(r"'DejaVu Sans'[^;]*")
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Chart:
    """A drawing and its words.

    Attributes:
        title: its name, a few words.
        description: what it shows, with the numbers that matter, for who does not see it.
        tips: id of a curve or bar (matplotlib's `gid`) -> a text for each of its marks.
    """

    title: str
    description: str
    draw: Callable[[], "Figure"]
    tips: Mapping[str, Sequence[str]] = field(default_factory=dict)


def clean(text: str) -> str:
    """Replace the characters that XML does not allow."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def inline_svg(chart: Chart, prefix: str) -> str:
    """Draw the chart as `<svg>` markup; every id in it begins with `prefix`, unique in the page."""
    root = ET.fromstring(_drawn(chart, prefix))  # noqa: S314
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _theme(element, prefix)
    for gid, texts in chart.tips.items():
        _add_tips(root, f"{prefix}-{gid}", texts)
    _name(root, chart, prefix)
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode")


def _drawn(chart: Chart, prefix: str) -> str:
    from matplotlib import rc_context

    out = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": prefix}
    with plain_text(), rc_context(settings):
        figure = chart.draw()
        metadata = {"Date": None, "Creator": None}
        figure.savefig(out, format="svg", metadata=metadata, transparent=True)
    return clean(out.getvalue())


def _theme(element: ET.Element, prefix: str) -> None:
    for key, value in list(element.attrib.items()):
        if key == "id":
            value = f"{prefix}-{value}"
        elif key == _HREF:
            del element.attrib[key]
            key, value = "href", f"#{prefix}-{value.removeprefix('#')}"
        elif key == "style":
            value = _HEX.sub(lambda m: _VARIABLES.get(m[0].lower(), m[0]), value)
            value = _FONTS.sub("var(--sans)", value)
        value = value.replace("url(#", f"url(#{prefix}-")
        element.set(key, _LONG.sub(lambda m: f"{float(m[0]):.2f}", value))


def _add_tips(root: ET.Element, identity: str, texts: Sequence[str]) -> None:
    """Add a `<title>` for each mark of a curve, or for a bar; none where they do not pair up."""
    group = next((e for e in root.iter() if e.get("id") == identity), None)
    if group is None:
        return
    marks = [e for e in group.iter() if e.tag == f"{{{_SVG}}}use"] or [
        e for e in group.iter() if e.tag == f"{{{_SVG}}}path"
    ]
    if len(marks) != len(texts):
        return
    for mark, text in zip(marks, texts, strict=True):
        title = ET.SubElement(mark, f"{{{_SVG}}}title")
        title.text = clean(text)


def _name(root: ET.Element, chart: Chart, prefix: str) -> None:
    """Put title and description first, where readers look for them; the page sets the size."""
    for index, (tag, text) in enumerate((("title", chart.title), ("desc", chart.description))):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{prefix}-{tag}"})
        element.text = clean(text)
        root.insert(index, element)
    root.set("role", "img")
    root.set("fill", "currentColor")  # matplotlib leaves black out, SVG's own default
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
