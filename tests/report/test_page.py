"""The page's markup: escaped, named, self-contained, the same each time; no browser needed here."""

import math
import re
from html.parser import HTMLParser

import pytest

from ctxext.api.report import make_report
from ctxext.report.charts.style import new_figure
from ctxext.report.charts.svg import Chart, inline_svg
from ctxext.report.page.html import Html, data_table, tag
from support.report_samples import every_kind, perplexity_document, retrieval_document, write_run

NASTY = ("<script>alert(1)</script>", "a$b_{$</svg>", '_"x" & \x01 id="y"')


class Outline(HTMLParser):
    """Tags with their attributes, ids, headings, and whether every element is closed."""

    void = ("meta", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.tags, self.stack, self.ids, self.headings = [], [], [], []
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for key, value in attrs if key == "id"]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in self.void:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.void:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return every_kind(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def text(folders, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    make_report(folders, output=path)
    return path.read_text()


def test_sections_tables_and_headings(text):
    outline = Outline(text)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    for before, after in zip(outline.headings, outline.headings[1:], strict=False):
        assert after <= before + 1
    links = {a["href"] for t, a in outline.tags if t == "a"}
    assert {link.removeprefix("#") for link in links} <= set(outline.ids)
    assert {"#retrieval", "#longppl", "#config", "#training", "#harness", "#fertility"} <= links
    names = [t for t, _ in outline.tags]
    assert names.count("table") == names.count("caption") > 10
    assert all(a.get("scope") in ("row", "col") for t, a in outline.tags if t == "th")
    charts = [a for t, a in outline.tags if t == "svg"]
    assert len(charts) == names.count("desc") > 10
    for chart in charts:
        assert chart["role"] == "img"
        for identity in chart["aria-labelledby"].split():
            assert identity in outline.ids
    html = next(a for t, a in outline.tags if t == "html")
    assert html["lang"] == "en"


def test_nothing_is_fetched_and_nothing_runs(text):
    outline = Outline(text)
    assert "script" not in [t for t, _ in outline.tags]
    for t, attributes in outline.tags:
        for key, value in attributes.items():
            assert key not in ("src", "srcset", "onload", "onclick"), t
            if key in ("href", "xlink:href"):
                assert value.startswith("#")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "#000000" not in text  # black is the page's text colour
    assert len(text.encode()) < 3_000_000


def test_the_same_runs_give_the_same_page(folders, text, tmp_path):
    make_report(folders, output=tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == text


def test_numbers_are_there(text):
    for word in ("31.00 ± 0.62", "20 %", "Lost in the middle", "95 % [91, 97]", "0.4100 ± 0.0100"):
        assert word in text
    assert "lora, 2k: 2.400 ± 0.048</title>" in text.replace("<ns0:", "<")
    assert "ctxext eval-ppl somewhere" in text


def test_names_from_files_are_text(tmp_path):
    folders = [
        write_run(tmp_path / "eval", "eval-ppl", perplexity_document(NASTY)),
        write_run(tmp_path / "keys", "eval-retrieval", retrieval_document(NASTY),
                  command="ctxext <img src=x onerror=alert(1)>"),
    ]  # fmt: skip
    make_report(folders, output=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    outline = Outline(text)
    assert not {"script", "img"} & {t for t, _ in outline.tags}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "a$b_{$&lt;/svg&gt;" in text
    assert "\x01" not in text


def test_missing_numbers_are_dashes(tmp_path):
    document = perplexity_document()
    document["results"][1] |= {"perplexity": math.nan, "nll": math.nan, "stderr": None}
    document["results"][2] |= {"perplexity": None, "nll": None}
    del document["results"][3]["stderr"]
    scores = retrieval_document()
    scores["results"][0] |= {"accuracy": None, "low": None, "high": None, "gain": None}
    folders = [
        write_run(tmp_path / "eval", "eval-ppl", document),
        write_run(tmp_path / "keys", "eval-retrieval", scores),
    ]
    make_report(folders, output=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert '<th scope="row">base</th><td>2.600 ± 0.052</td><td>–</td><td>–</td>' in text
    assert "nan" not in re.sub("<[^>]*>", "", text).lower().split()


def test_a_large_run_stays_below_three_megabytes(tmp_path, monkeypatch):
    """Eight tasks, 11 lengths, 11 depths: what is drawn has an end, the tables hold the rest."""
    monkeypatch.setattr("support.report_samples.LENGTHS", tuple(2**n for n in range(8, 19)))
    monkeypatch.setattr("support.report_samples.DEPTHS", tuple(n / 10 for n in range(11)))
    tasks = [f"task{n}" for n in range(8)]
    folder = write_run(tmp_path / "keys", "eval-retrieval", retrieval_document(tasks=tasks))
    make_report([folder], output=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert len(text.encode()) < 3_000_000
    assert "8 more are in the tables below only" in text
    assert text.count("<caption><span>task") == 24


def test_html_escapes_what_is_not_markup():
    assert tag("p", "<b>", tag("i", "&")) == "<p>&lt;b&gt;<i>&amp;</i></p>"
    assert tag("a", "x", title='"<', class_="c") == '<a title="&quot;&lt;" class="c">x</a>'
    table = data_table("<c>", (["<h>"], [["<r>"]]))
    assert "<c>" not in table
    assert "<h>" not in table
    assert "<r>" not in table
    assert isinstance(tag("p"), Html)


def test_charts_have_ids_of_their_own_and_marks_with_numbers():
    def draw():
        figure, (axis,) = new_figure(1)
        axis.plot([1, 2, 3], [1, 2, 3], color="#000000", marker="o", gid="curve")
        axis.set_title("$not a formula$")
        return figure

    chart = Chart("title", "words", draw, {"curve": ["one", "two", "three"]})
    one, other = inline_svg(chart, "a"), inline_svg(chart, "b")
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (one, other)]
    assert not ids[0] & ids[1]
    assert {name.split("-")[0] for name in ids[0]} == {"a"}
    referred = set(re.findall(r'href="#([^"]+)"', one)) | set(re.findall(r"url\(#([^)]+)\)", one))
    assert referred <= ids[0]
    assert re.findall(r"<title>([^<]*)</title>", one) == ["one", "two", "three"]
    assert "$not a formula$" in one
    assert "currentColor" in one
    assert "<?xml" not in one


def test_a_stacked_table_carries_its_heads_in_its_cells():
    stacked = data_table("t", (["model", "far"], [["a", "1"]]), stacked=True)
    assert '<td data-label="far">1</td>' in stacked
    assert "data-label" not in data_table("t", (["model", "far"], [["a", "1"]]))


def test_the_lead_says_which_model_is_what(text):
    lead = re.search('<p class="lead">(.*?)</p>', text)[1]
    assert "base: collapses." in lead
    assert "yarn: holds, not used." in lead
