"""A chart as an SVG file of its own: light as it stands, dark where whoever looks at it asks so.

Colours are plain attributes, which every reader of SVG knows, and a style sheet that only dark
viewers read replaces them. Both sets are those of the report's page.
"""

import re
import xml.etree.ElementTree as ET  # what is parsed was written by `inline_svg` a moment ago
from importlib.resources import files
from pathlib import Path
from typing import Final

from ctxext.report.charts.svg import Chart, inline_svg

_SVG: Final = "http://www.w3.org/2000/svg"
_FONTS: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
_COLOR = re.compile(r"--([a-z0-9-]+): (#[0-9a-f]{6})")
_ROOT = re.compile(r":root \{([^}]*)\}")
_THEMED = re.compile(r"(fill|stroke): (?:var\(--([a-z0-9-]+)\)|(currentColor));?\s*")


def write_svg(path: Path, chart: Chart, prefix: str) -> None:
    """Draw a chart and write it to a file.

    Args:
        path: ends in .svg.
        prefix: begins every id in it.
    """
    light, dark = _palettes()
    root = ET.fromstring(inline_svg(chart, prefix))  # noqa: S314
    used: set[tuple[str, str]] = set()
    for element in root.iter():
        _color(element, light, used)
    width, height = root.get("viewBox", "0 0 0 0").split()[2:]
    root.set("width", f"{width}pt")
    root.set("height", f"{height}pt")
    root.set("fill", light["text"])
    root.set("class", "fill-text")
    used |= {("fill", "text"), ("fill", "surface")}
    ground = {"width": "100%", "height": "100%", "fill": light["surface"], "class": "fill-surface"}
    root.insert(2, ET.Element(f"{{{_SVG}}}rect", ground))  # after title and description
    sheet = ET.Element(f"{{{_SVG}}}style")
    rules = [f".{what}-{name}{{{what}:{dark[name]}}}" for what, name in sorted(used)]
    sheet.text = f"@media (prefers-color-scheme:dark){{{''.join(rules)}}}"
    root.insert(2, sheet)
    ET.register_namespace("", _SVG)
    path.write_text(ET.tostring(root, encoding="unicode"), encoding="utf-8")


def _palettes() -> tuple[dict[str, str], dict[str, str]]:
    """Read the colours of the page by name, light and dark."""
    text = files("ctxext.report.page").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = (dict(_COLOR.findall(block)) for block in _ROOT.findall(text)[:2])
    return light, light | dark


def _color(element: ET.Element, light: dict[str, str], used: set[tuple[str, str]]) -> None:
    """Turn themed colours of a style into attributes with a class for the other theme."""
    style = element.get("style")
    if style is None:
        return
    names = [(what, name or "text") for what, name, _ in _THEMED.findall(style)]
    for what, name in names:
        element.set(what, light[name])
    if names:
        element.set("class", " ".join(f"{what}-{name}" for what, name in names))
        used.update(names)
    element.set("style", _THEMED.sub("", style).replace("var(--sans)", _FONTS))
