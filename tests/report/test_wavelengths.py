"""The picture of rotary pairs: every line is named, nothing lies on anything, light and dark."""

import json
import re
import xml.etree.ElementTree as ET

import pytest

from ctxext.api.inspect import inspect
from ctxext.api.inspect_plot import plot
from ctxext.errors import BadInput
from ctxext.methods import rope_methods
from ctxext.report.charts.style import plain_text
from ctxext.report.charts.wavelengths import (
    SlowedPairs,
    Wavelengths,
    draw_wavelengths,
    plot_wavelengths,
)

SVG = "{http://www.w3.org/2000/svg}"


def llama(folder, head_dim, **changes):
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512,
        "head_dim": head_dim, "num_attention_heads": 2, "num_hidden_layers": 2,
        "max_position_embeddings": 8192, "rope_theta": 500_000.0, "torch_dtype": "bfloat16",
    }  # fmt: skip
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config | changes))
    return str(folder)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}


def texts_of(path):
    return [element.text for element in ET.parse(path).iter(f"{SVG}text")]


@pytest.mark.parametrize("head_dim", [8, 256])
def test_lines_bands_and_methods_are_named_where_they_stand(tmp_path, head_dim):
    path = tmp_path / "waves.svg"
    inspected = inspect(llama(tmp_path / "m", head_dim, rope_scaling=YARN), target="32k")
    plot(inspected, path)
    texts = texts_of(path)
    for words in ("trained window 2k", "target 32k", "as trained", "as it is", "never a full turn"):
        assert words in texts, words
    assert "aliases below 2 tokens a turn: no pair" in texts
    assert "yarn, recommended" in texts
    drawn = {row.name for row in inspected.target.methods if row.factors}
    assert {name.removesuffix(", recommended") for name in texts} >= drawn
    names = [method.name for method in rope_methods()]
    left = ", ".join(name for name in names if name not in drawn)
    assert not left or any(text.startswith(f"not drawn: {left}") for text in texts)


@pytest.mark.parametrize("head_dim", [8, 256])
def test_no_text_lies_on_another(tmp_path, head_dim):
    inspected = inspect(llama(tmp_path / "m", head_dim, rope_scaling=YARN), target="32k")
    shown = []

    def draw(path, waves):
        shown.append(waves)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctxext.api.inspect_plot.plot_wavelengths", draw)
        plot(inspected, tmp_path / "a.svg")
    with plain_text():
        figure = draw_wavelengths(shown[0], "title")
        figure.draw_without_rendering()
        boxes = [
            (text.get_text(), text.get_window_extent())
            for axis in figure.findobj(lambda artist: hasattr(artist, "get_xticklabels"))
            for text in (*axis.texts, axis.title, axis._left_title)
            if text.get_text()
        ]
    assert len(boxes) > 8
    width, height = figure.canvas.get_width_height()
    for name, box in boxes:
        assert min(box.x0, box.y0) >= 0, name
        assert width >= box.x1, name
        assert height >= box.y1, name
    for at, (name, box) in enumerate(boxes):
        for other, beside in boxes[at + 1 :]:
            assert not box.padded(-1).overlaps(beside), (name, other)


def test_pairs_that_stop_or_leave_all_proportion_are_told(tmp_path):
    path = tmp_path / "waves.svg"
    inspected = inspect(llama(tmp_path / "m", 8), target="32k")
    method = SlowedPairs("strange", [1.0, 2.0, 5000.0, float("inf")])
    waves = Wavelengths(
        model="m", trained=[6.3, 63, 630, 6300], now=[1.5, 63, 630, 6300], bands=inspected.bands,
        original=8192, claimed=8192, target=32768, methods=[method],
    )  # fmt: skip
    plot_wavelengths(path, waves)
    assert "to 5,000x, 1 pair stops" in texts_of(path)
    assert "aliases below 2 tokens a turn: 1 pair" in texts_of(path)


def test_an_svg_is_light_as_it_stands_and_dark_where_asked(tmp_path):
    path = tmp_path / "waves.svg"
    plot(inspect(llama(tmp_path / "m", 8)), path)
    text = path.read_text()
    assert "var(" not in text  # which only browsers know
    (sheet,) = ET.parse(path).iter(f"{SVG}style")
    dark = dict(re.findall(r"\.([a-z0-9-]+)\{[a-z]+:(#[0-9a-f]{6})\}", sheet.text))
    assert sheet.text.startswith("@media (prefers-color-scheme:dark){")
    for element in ET.parse(path).iter():
        for name in (element.get("class") or "").split():
            light = element.get(name.partition("-")[0])
            assert re.fullmatch("#[0-9a-f]{6}", light), name
            assert contrast(light, dark[name]) > 1.05, name  # another one in the dark
    assert contrast(dark["fill-text"], dark["fill-surface"]) > 7
    root = ET.parse(path).getroot()
    assert root.get("width").endswith("pt")
    assert [child.tag.removeprefix(SVG) for child in root][:2] == ["title", "desc"]
    assert "4 rotary pairs" in root[1].text
    plot(inspect(llama(tmp_path / "m2", 8)), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text().replace("m2", "m") == text  # no date, no chance


def contrast(one, other):
    """WCAG's contrast of two colours."""

    def light(color):
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_a_picture_is_written_as_png_too(tmp_path):
    inspected = inspect(llama(tmp_path / "m", 256), target="32k")
    plot(inspected, tmp_path / "waves.png")
    assert (tmp_path / "waves.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "waves.png").stat().st_size > 20_000


def test_what_cannot_be_drawn_is_said(tmp_path):
    inspected = inspect(llama(tmp_path / "m", 8))
    with pytest.raises(BadInput, match=r"has to end in \.png or \.svg"):
        plot(inspected, tmp_path / "waves.pdf")
    with pytest.raises(BadInput, match="is no folder"):
        plot(inspected, tmp_path / "nowhere" / "waves.svg")
    gpt2 = {"model_type": "gpt2", "n_positions": 64, "n_layer": 2, "n_head": 2, "n_embd": 64}
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(gpt2))
    with pytest.raises(BadInput, match="gpt2 has no rotary pairs"):
        plot(inspect(str(tmp_path / "gpt2")), tmp_path / "waves.svg")
