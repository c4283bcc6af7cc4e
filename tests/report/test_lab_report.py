"""A laboratory's document as tables, pictures and a page: what it says is what they say."""

import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from ctxext.api.report import make_report
from ctxext.errors import BadInput
from ctxext.report.charts.lab import lab_charts, plot_lab
from ctxext.report.charts.svg import inline_svg
from ctxext.report.findings.lab import (
    both_ways,
    difference_words,
    headline,
    longest_recall,
    readings,
    steps_to_target,
    strength_words,
    tally,
)
from ctxext.report.tables.lab import lab_tables
from ctxext.runs.rows.lab import LabResult
from ctxext.runs.run_documents import read_document
from support.command import run_ctxext
from support.lab_samples import ENCODINGS, METHODS, SEEDS, STATEMENTS, lab_document, statement
from support.report_samples import every_kind, perplexity_document, write_run

NASTY = "<script>alert(1)</script> $x_{"
EVERY_PICTURE = [
    "lab.svg", "lab.png", "lab-order.svg", "lab-pairs.svg", "lab-extensions.svg", "lab-steps.svg",
    "lab-reading.svg", *(f"lab-{name}.svg" for name in ENCODINGS),
]  # fmt: skip


def result(**changes):
    return LabResult.from_dict(lab_document(**changes))


def cells(title, **changes):
    """(columns, {the line's first cell: the others}) of the table that is called so."""
    columns, rows = next(
        each.cells for each in lab_tables(result(**changes)) if each.title.startswith(title)
    )
    return columns, {row[0]: row[1:] for row in rows}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "lab", "lab", lab_document())


@pytest.fixture(scope="module")
def page(folder):
    make_report([folder], output=folder / "report.html")
    return (folder / "report.html").read_text()


def texts_of(page):
    """The text of each element that a reader sees, tags away."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)).replace("\N{NO-BREAK SPACE}", " ")


# What the rows say


def test_verdicts_are_counted():
    assert tally(result().statements) == (
        "10 of 12 statements hold, 1 does not hold, 1 is undecided"
    )
    assert tally(result(statements=[STATEMENTS[0]]).statements) == (
        "1 of 1 statement holds, 0 do not hold, 0 are undecided"
    )
    assert headline(result()).startswith(
        "5 encodings, trained at 64 tokens and read at up to 512, 3 seeds: 10 of 12"
    )
    assert headline(result(statements=[])).endswith("up to 512, 3 seeds")


@pytest.mark.parametrize(
    ("changes", "seeds", "difference", "strength"),
    [
        ({}, 3, "+2.4 ± 0.25 nats a token", "9.6 standard errors over 3 seeds, p = 0.021"),
        ({"p": 3e-6}, 5, "+2.4 ± 0.25 nats a token",
         "9.6 standard errors over 5 seeds, p < 0.0001"),
        ({"stderr": None, "errors": None, "p": None}, 3, "+2.4 nats a token",
         "an exact check over 3 seeds"),
        ({"stderr": None, "errors": None, "p": None, "verdict": "undecided"}, 1,
         "+2.4 nats a token", "no standard error over 1 seed"),
        ({"difference": None, "stderr": None, "errors": None, "verdict": "undecided"}, 1,
         "not measured", "nothing to test"),
    ],
)  # fmt: skip
def test_what_a_verdict_rests_on(changes, seeds, difference, strength):
    row = result(statements=[statement("key", "claim", 2.4, 0.25) | changes]).statements[0]
    assert difference_words(row) == difference
    assert strength_words(row, seeds) == strength


def test_steps_are_compared_seed_by_seed():
    linear, yarn, drop = steps_to_target(result().steps_to_target)
    assert linear.ratio == 1
    assert yarn.ratios == (120 / 40, 150 / 40, 130 / 30)
    assert yarn.ratio == pytest.approx((3 * 3.75 * 13 / 3) ** (1 / 3))
    assert drop.ratio is None


def test_methods_are_paired_and_the_best_stands_first():
    pairs = both_ways(result().extensions)
    assert pairs[0].method == "yarn"
    assert pairs[-1].method == "as trained"
    assert (pairs[0].before.far, pairs[0].after.far) == (2.58, 2.33)
    untrained = [row for row in lab_document()["extensions"] if row["steps"] == 0]
    assert all(pair.after is None for pair in both_ways(result(extensions=untrained).extensions))


def test_a_distance_is_drawn_once_in_the_longest_rows():
    rows = longest_recall(result().recall)
    assert {row.length for row in rows} == {512}
    places = [(row.encoding, row.distance) for row in rows]
    assert len(places) == len(set(places)) == 25


def test_reading_joins_loss_and_copying():
    alibi = next(row for row in readings(result()) if row.name == "alibi")
    assert alibi.lost == pytest.approx(2.32 - 2.36)
    assert (alibi.gain, alibi.at) == (0.0, 256)
    assert alibi.inside == pytest.approx(1.60 + 0.3)
    assert alibi.near == 32


# Tables


def test_the_table_of_statements():
    columns, lines = cells("Statements")
    assert columns[:4] == ["statement", "verdict", "difference", "rests on"]
    assert len(lines) == 12
    assert lines["Without position, it extrapolates further than RoPE."][:3] == [
        "undecided", "+1.4 ± 0.8 nats a token", "1.7 standard errors over 3 seeds, p = 0.49",
    ]  # fmt: skip


def test_the_table_of_perplexity_marks_the_trained_window():
    columns, lines = cells("Perplexity by position, trained at 64")
    assert columns == [
        "encoding", "0-16 (trained)", "16-32 (trained)", "32-64 (trained)", "64-128", "128-256",
        "256-512",
    ]  # fmt: skip
    value = math.exp(2.32)
    assert lines["alibi"][-1] == f"{value:.2f} ± {value * 0.17:.2f}"
    assert lines["learned"][3:] == ["–"] * 3
    assert lines["learned, untrained rows"][-1].startswith("735.1 ± ")


def test_the_tables_of_copying_order_methods_pairs_and_steps():
    columns, rows = next(t.cells for t in lab_tables(result()) if t.title.startswith("Copying"))
    assert columns[:3] == ["encoding", "rows of", "16 back"]
    assert rows[2][:3] == ["rope", "512", "+3.10 ± 0.06, 78 %"]
    assert [row[1] for row in rows] == ["512"] * 5 + ["64"] * 5

    _, lines = cells("Words permuted")
    assert lines["none"] == ["3.0e-07 ± 1.0e-08", "0.400 ± 0.010"]

    columns, lines = cells("RoPE extended")
    assert columns[-1] == "recall, 60 steps"
    assert set(lines) == set(METHODS)
    assert lines["yarn"] == [
        "2.460 ± 0.020", "2.580 ± 0.050", "+1.10 ± 0.08",
        "2.420 ± 0.020", "2.330 ± 0.050", "+2.10 ± 0.08",
    ]  # fmt: skip

    _, lines = cells("Rotary pairs")
    assert len(lines) == 16
    assert lines["4"][:3] == ["62.8", "1", "+0.024 ± 0.008"]

    columns, lines = cells("LoRA steps")
    assert columns[-1] == "linear's steps over its own"
    assert lines["yarn"] == ["40", "40", "30", "3.65 times (3 to 4.33)"]
    assert lines["drop"] == ["never", "never", "never", "–"]


def test_what_was_not_measured_has_no_table_and_no_picture(tmp_path):
    bare = result(order=[], extensions=[], pairs=[], steps_to_target=[], statements=[], recall=[])
    assert [each.title for each in lab_tables(bare)] == [
        "Perplexity by position, trained at 64", "Decoders that were trained",
    ]  # fmt: skip
    names = {path.name for path in plot_lab(tmp_path, bare)}
    assert names == {"lab.svg", "lab.png", *(f"lab-{name}.svg" for name in ENCODINGS)}
    assert not plot_lab(tmp_path, result(by_position=[], **{name: [] for name in (
        "order", "extensions", "pairs", "steps_to_target", "recall")}))  # fmt: skip


# Pictures


def test_every_picture_is_written_and_says_its_numbers(tmp_path):
    assert [path.name for path in plot_lab(tmp_path, result())] == EVERY_PICTURE
    for name in EVERY_PICTURE:
        path = tmp_path / name
        assert path.stat().st_size > 5000
        if path.suffix == ".svg":
            root = ET.fromstring(path.read_text())
            assert root.find("{*}desc").text
    said = (tmp_path / "lab-pairs.svg").read_text()
    assert "pair 6, 199 tokens a turn: +0.419 ± 0.025, more than the trained window of 64" in said
    assert "pair 0, 6 tokens a turn: +0.090 ± 0.008, less than the trained window of 64" in said
    assert "linear needs 3.65 times (3 to 4.33) as many" in (tmp_path / "lab-steps.svg").read_text()


def drawn(name):
    figure = lab_charts(result())[name].draw()
    figure.draw_without_rendering()
    return figure


def test_the_trained_window_stands_on_both_sides_of_the_teaching_plot():
    figure = drawn("lab")
    for axis in figure.axes:
        assert [text.get_text() for text in axis.texts] == ["trained window"]
    labels = [text.get_text() for text in figure.legends[0].texts]
    assert labels == [
        "sinusoidal", "learned (nothing past 64)", "learned, untrained rows", "rope", "alibi",
        "none",
    ]  # fmt: skip


def test_points_of_the_extension_chart_lie_where_the_rows_say():
    near, far, recall = drawn("lab-extensions").axes
    line = next(line for line in far.lines if line.get_gid() == "far-before")
    names = [text.get_text() for text in far.get_yticklabels()]
    points = dict(zip([names[at] for at in line.get_ydata()], line.get_xdata(), strict=True))
    assert points == {name: before[1] for name, (before, _) in METHODS.items()}
    assert near.get_title(loc="left") == "Near: loss in the trained window"
    assert recall.get_xlabel() == "nats a token gained"


def test_titles_lie_on_nothing_and_nothing_is_cut_off():
    for name in lab_charts(result()):
        figure = drawn(name)
        titles = [axis._left_title.get_window_extent() for axis in figure.axes]
        for axis, title in zip(figure.axes, titles, strict=True):
            for text in axis.texts:
                assert not text.get_window_extent().overlaps(title), name
        for box in (*titles, *(text.get_window_extent() for text in figure.texts)):
            assert 0 <= box.x0 <= box.x1 <= figure.bbox.width, name
        pairs = pairwise(titles)
        assert not any(one.overlaps(other) for one, other in pairs), name


def test_an_encoding_looks_the_same_in_every_run():
    few = result(encodings=["none"], by_position=[
        row for row in lab_document()["by_position"] if row["encoding"] == "none"])  # fmt: skip
    lines = [
        next(line for line in lab_charts(each)["lab"].draw().axes[0].lines
             if line.get_label() == "none")
        for each in (result(), few)
    ]  # fmt: skip
    assert lines[0].get_color() == lines[1].get_color()
    assert lines[0].get_marker() == lines[1].get_marker()


def test_numbers_out_of_all_proportion_are_drawn():
    document = lab_document()
    for kind, name in (
        ("by_position", "nll"), ("recall", "gain"), ("order", "change"), ("extensions", "far"),
        ("pairs", "left_far"), ("pairs", "slowed_near"),
    ):  # fmt: skip
        for at, row in enumerate(document[kind]):
            row[name] = (0.0, 1e15, row[name])[at % 3]
    for name, chart in lab_charts(LabResult.from_dict(document)).items():
        if name in ("lab", "lab-order", "lab-pairs", "lab-extensions", "lab-reading"):
            assert not re.search(r"\b(nan|inf)\b", inline_svg(chart, name))


# The page


def test_a_folder_with_a_laboratory_alone(page):
    text = texts_of(page)
    assert "<title>Position laboratory</title>" in page
    assert "10 of 12 statements hold, 1 does not hold, 1 is undecided." in text
    for each in STATEMENTS:
        assert each["claim"] in text
        assert f"Measured: {each['measured']}. After {each['source']}." in text
    assert "✓ holds +2.35 ± 0.12 nats a token: 19.6 standard errors over 3 seeds" in text
    assert "✕ does not hold -0.18 ± 0.03 nats a token: -6.0 standard errors over 3 seeds" in text
    assert "◐ undecided +1.4 ± 0.8 nats a token" in text
    assert "1e-05 of the logits: an exact check over 3 seeds" in text
    assert "3.65 times (3 to 4.33)" in text
    assert "600 steps of 2,048 tokens" in text
    assert "The budget was enough for 3 of 5 seeds." in text
    assert "decoders have up to 412,000 parameters" in text
    assert "eval-ppl" not in text  # nothing here is a checkpoint to measure
    assert "ctxext lab somewhere" in text
    assert page.count("<svg") == 10
    assert "alibi, 256-512: 10.18 ± 1.73</title>" in page.replace("<ns0:", "<")


def test_verdicts_come_before_pictures_and_numbers(page):
    places = [page.index(word) for word in ("10 of 12 statements", "By encoding", ">Numbers<")]
    assert places == sorted(places)
    assert page.index('class="badge good"') < page.index("<svg")


def test_it_stands_beside_other_runs(tmp_path, folder):
    others = every_kind(tmp_path / "runs")
    report = make_report([*others, folder], output=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert "Position laboratory" not in text
    assert 'href="#lab"' in text
    assert text.index('id="retrieval"') < text.index('id="lab"') < text.index('id="missing"')
    document = report.to_dict()
    assert [each["run"] for each in document["laboratories"]] == ["lab"]
    assert document["laboratories"][0]["statements"] == list(STATEMENTS)
    assert document["verdicts"]


def test_two_laboratories_are_named(tmp_path):
    less = {key: [] for key in ("recall", "order", "extensions", "pairs", "steps_to_target")}
    one = write_run(tmp_path / "short", "lab", lab_document(**less))
    two = write_run(tmp_path / "long", "lab", lab_document(**less, train_length=128))
    make_report([one, two], output=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<h3>short: 5 encodings, trained at 64" in text
    assert "<h3>long: 5 encodings, trained at 128" in text
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_texts_of_a_document_stay_texts(tmp_path):
    nasty = statement("key", NASTY, 1.0, 0.1, source=NASTY, measured=NASTY, unit=NASTY)
    document = lab_document(statements=[nasty], notes=[NASTY], preset=NASTY)
    document["encodings"][0] = NASTY
    for kind, key in (("by_position", "variant"), ("recall", "encoding"), ("order", "encoding"),
                      ("extensions", "method"), ("steps_to_target", "method"),
                      ("models", "encoding")):  # fmt: skip
        for row in document[kind][:2]:
            row[key] = NASTY
    folder = write_run(tmp_path / "lab", "lab", document)
    make_report([folder], output=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt; $x_{") > 10


def test_a_document_is_read_back(folder):
    read = read_document(folder, "lab")
    assert read.to_dict() == lab_document()


def change(**changes):
    return json.dumps(lab_document(**changes))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "lab.json"),
        (change(schema="ctxext.lab/9"), "ctxext.lab/9"),
        (json.dumps(perplexity_document()), "ctxext.eval-ppl/1"),
        (change(statements=[{**STATEMENTS[0], "verdict": "perhaps"}]),
         "in statements, verdict is 'perhaps'"),
        (change(pairs=[{"pair": 0, "wavelength": -1}]), "in pairs, wavelength is -1"),
        (change(by_position=None), "by_position is None"),
    ],
)  # fmt: skip
def test_a_broken_or_foreign_document_is_one_sentence(tmp_path, text, words):
    folder = write_run(tmp_path / "some-lab", "lab")
    (folder / "lab.json").write_text(text)
    with pytest.raises(BadInput) as caught:
        make_report([folder], output=None)
    assert words in str(caught.value)
    assert "some-lab" in str(caught.value)


def test_a_laboratory_that_was_stopped_is_one_sentence(tmp_path):
    folder = write_run(tmp_path / "lab", "lab")
    with pytest.raises(BadInput, match=r"has no lab\.json: its lab was stopped before its end"):
        make_report([folder], output=None)


def test_the_command_prints_the_verdicts_and_the_tables(folder, tmp_path):
    done = run_ctxext("report", folder, "-o", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    assert "3 seeds: 10 of 12 statements hold, 1 does not hold, 1 is undecided" in done.stdout
    assert "| YaRN needs fewer steps than linear. | holds | +1.28 ± 0.11 natural log |" in (
        done.stdout
    )
    assert "| yarn | 40 | 40 | 30 | 3.65 times (3 to 4.33) |" in done.stdout
    assert f"note: The budget was enough for {len(SEEDS)} of 5 seeds." in done.stdout


def test_tables_and_findings_load_no_matplotlib_and_no_torch():
    code = (
        "import ctxext.report.tables.lab, ctxext.report.findings.lab, sys;"
        "print([m for m in ('matplotlib', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
