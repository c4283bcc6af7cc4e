"""What a chart looks like, told by its parts: nothing lies on anything, a look means one model."""

import json
from itertools import pairwise

import pytest
from matplotlib.colors import to_hex

from ctxext.api.report import make_report
from ctxext.report.charts.perplexity import draw_perplexity, perplexity_figure
from ctxext.report.charts.retrieval import Share, draw_accuracy, plot_retrieval, retrieval_figure
from ctxext.report.charts.style import (
    COLORS,
    chart_title,
    legend_below,
    line_style,
    new_figure,
    title_figure,
)
from ctxext.report.charts.training import draw_loss
from ctxext.report.charts.verdict import draw_reach
from ctxext.report.findings.collected import findings
from ctxext.report.findings.groups import PerplexityGroup, RetrievalGroup, Run
from ctxext.report.page.sections.common import one_chart
from ctxext.runs.rows.perplexity import PerplexityResult
from ctxext.runs.rows.record import RunRecord
from ctxext.runs.rows.retrieval import RetrievalResult
from ctxext.runs.rows.training import StepRow
from support.report_samples import perplexity_document, retrieval_document, write_run

NINE = [f"a-checkpoint-with-a-long-name-{n}" for n in range(9)]


def several(models):
    """An eval-ppl document of so many models."""
    document = perplexity_document(key_tokens=None)
    for rows in ("results", "by_position"):
        first = [row for row in document[rows] if row["model"] == "yarn"]
        document[rows] = [
            {**row, "model": name, "nll": None, "config_sha256": f"{at:064x}"}
            for at, name in enumerate(models)
            for row in first
        ]
    return PerplexityResult.from_dict(document)


def boxes(figure):
    """The legend, the axes and the marks over them, drawn; pixels."""
    figure.draw_without_rendering()
    legends = [legend.get_window_extent() for legend in figure.legends]
    assert all(axis.get_legend() is None for axis in figure.axes)
    axes = [axis.get_window_extent() for axis in figure.axes if axis.axison]
    marks = [
        text.get_window_extent()
        for axis in figure.axes
        for text in axis.texts
        if text.get_text() in ("trained window", "target", "trained window, target")
    ]
    return legends, axes, marks


def check_nothing_overlaps(figure):
    legends, axes, marks = boxes(figure)
    titles = [text.get_window_extent() for text in figure.texts] + [
        axis._left_title.get_window_extent() for axis in figure.axes if axis._left_title.get_text()
    ]
    assert len(legends) == 1
    for axis in axes:
        assert axis.height > 150, "the legend has taken the place of the axes"
        assert not any(each.overlaps(axis) for each in (*legends, *marks, *titles))
    for one in (*legends, *titles):
        assert not any(mark.overlaps(one) for mark in marks)
        assert 0 <= one.x0 <= one.x1 <= figure.bbox.width
    for one, other in pairwise(sorted(marks, key=lambda box: (box.y0, box.x0))):
        assert not one.overlaps(other)


@pytest.mark.parametrize("models", [["base", "yarn"], NINE])
def test_legend_marks_and_titles_lie_on_nothing(models):
    result = several(models)
    figure = perplexity_figure(result.results, result.by_position, window=512, text="book.txt")
    check_nothing_overlaps(figure)

    def draw(axis):
        draw_perplexity(axis, result.results, window=512, target=1024, order=models)

    check_nothing_overlaps(one_chart(draw))


def test_a_window_near_the_target_keeps_its_name_readable():
    shares = [Share(model, 256 * 2**n, 0.5) for model in "ab" for n in range(11)]
    new, (axis,) = new_figure(1, width=4.6, height=3.7)
    draw_accuracy(axis, shares, label="", window=1024, target=2048, order="ab")
    legend_below(new, axis)
    check_nothing_overlaps(new)


def bars(axis):
    """Places of error bars, curve by curve."""
    return [
        [path.vertices[0][0] for path in collection.get_paths()]
        for collection in axis.collections
        if collection.get_paths()
    ]


@pytest.mark.parametrize("models", [["base", "yarn", "lora"], NINE])
def test_error_bars_stand_side_by_side(models):
    result = several(models)
    figure = perplexity_figure(result.results, result.by_position, window=256, text="book.txt")
    figure.draw_without_rendering()
    for axis in figure.axes:
        pixels = [[axis.transData.transform((at, 3))[0] for at in curve] for curve in bars(axis)]
        assert len(pixels) == len(models)
        for place in zip(*pixels, strict=True):
            assert min(b - a for a, b in pairwise(place)) > 1.9  # 1 point at 120 dpi is 1.7
        farthest, first = max(pixels[-1][:1]), min(pixels[0][1:2])
        assert farthest < first, "the last model's bar is nearer to its own length than to the next"


def test_two_models_of_forty_never_look_the_same():
    looks = [line_style(index) for index in range(40)]
    assert len({(look["marker"], look["linestyle"]) for look in looks}) == 40  # without colour
    assert len({look["color"] for look in looks[:10]}) == 10


def curves(figure):
    """Model -> colour, by the labels of the curves of all axes."""
    return {
        (line.get_label(), to_hex(line.get_color()))
        for axis in figure.axes
        for line in axis.lines
        if not line.get_label().startswith(("_", "chance", "threshold"))
    }


def test_a_model_keeps_its_colour_over_all_charts_of_a_page():
    """Retrieval asked two of three models, in another order."""
    asked = retrieval_document(names=("lora", "nobody", "base"))
    for key in ("results", "effective", "middle"):
        asked[key] = [row for row in asked[key] if row["model"] != "nobody"]
    runs = [
        Run("a", "eval-ppl", RunRecord(), PerplexityResult.from_dict(perplexity_document())),
        Run("b", "eval-retrieval", RunRecord(), RetrievalResult.from_dict(asked)),
    ]
    shown = findings(runs)
    assert shown.models == ["base", "yarn", "lora"]
    group, order = shown.retrieval[0], shown.models
    shares = [
        Share(score.model, score.length, score.accuracy)
        for score in group.by_length
        if score.task == "copy"
    ]
    pictures = [
        one_chart(
            lambda axis: draw_perplexity(axis, shown.perplexity[0].results, window=256, order=order)
        ),
        one_chart(lambda axis: draw_accuracy(axis, shares, label="", window=256, order=order)),
    ]
    looks = set().union(*(curves(picture) for picture in pictures))
    expected = {(model, to_hex(COLORS[at])) for at, model in enumerate(order)}
    assert curves(pictures[1]) < expected
    assert looks == expected
    _, (axis,) = new_figure(1)
    draw_reach(axis, shown.verdicts, ends=(128, 2048), window=256, target=None, order=shown.models)
    edges = {
        (verdict.model, to_hex(axis.patches[2 * at].get_edgecolor()))
        for at, verdict in enumerate(reversed(shown.verdicts))
    }
    assert edges == expected


def test_what_is_no_model_has_no_models_colour():
    lines = [StepRow(step=n, tokens=n, loss=1.0) for n in range(1, 60)]
    lines.append(StepRow(step=60, tokens=60, loss=9.0, skipped="a spike"))
    _, (axis,) = new_figure(1)
    draw_loss(axis, lines)
    used = {to_hex(line.get_color()) for line in axis.lines}
    assert len(axis.lines) == 3
    assert not used & {color.lower() for color in COLORS}


def test_titles_name_models_and_text_and_are_the_same_everywhere(tmp_path):
    assert chart_title("P", NINE, "book.txt") == (
        f"P: {NINE[0][:10]}…{NINE[0][-19:]}, {NINE[1][:10]}…{NINE[1][-19:]} and 7 more on book.txt"
    )
    result = PerplexityResult.from_dict(perplexity_document())
    figure = perplexity_figure(result.results, result.by_position, window=256, text="book.txt")
    assert figure._suptitle.get_text() == "Perplexity: base, yarn, lora on book.txt"
    folders = [
        write_run(tmp_path / "eval", "eval-ppl", perplexity_document()),
        write_run(tmp_path / "keys", "eval-retrieval", retrieval_document()),
    ]
    make_report(folders, output=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    for what in ("Perplexity by window length", "Perplexity by position", "Right answers, copy"):
        assert f"<figcaption>{what}: base, yarn, lora on book.txt</figcaption>" in text
    assert "<figcaption>% right, copy: lora on book.txt</figcaption>" in text


def test_a_long_title_is_as_wide_as_its_figure():
    figure, _ = new_figure(1)
    title_figure(figure, chart_title("Perplexity by window length", NINE, "a-long-name.txt" * 3))
    figure.draw_without_rendering()
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.width


def unsolved(document, chance=0.25):
    """The same where nobody ever answers, and all tell by choice."""
    for row in document["results"]:
        row |= {"accuracy": 0.0, "low": 0.0, "high": 0.09, "gain": 0.2,
                "choice": 0.5, "choice_low": 0.3, "choice_high": 0.7, "chance": chance}  # fmt: skip
    for row in document["effective"]:
        row["effective_length"] = None
    return document


def test_nothing_solved_is_no_wall_of_empty_maps(tmp_path):
    document = unsolved(retrieval_document(key_tokens=None))
    group = RetrievalGroup.of(RetrievalResult.from_dict(document))
    figure = retrieval_figure(group)
    drawn = [axis for axis in figure.axes if axis.axison]
    assert [axis._left_title.get_text() for axis in drawn] == [
        "passkey: forced choice (no exact answer)", "copy: forced choice (no exact answer)",
    ]  # fmt: skip
    assert not any(axis.patches for axis in drawn)
    assert "chance 25 %" in [text.get_text() for text in figure.legends[0].get_texts()]
    check_nothing_overlaps(figure)
    plot_retrieval(tmp_path / "retrieval.png", group)
    folder = write_run(tmp_path / "keys", "eval-retrieval", document)
    make_report([folder], output=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert text.count("<caption><span>Forced choice") == 1
    assert "By length and depth" not in text


def test_a_task_that_is_told_by_choice_alone_has_no_empty_maps():
    document = unsolved(retrieval_document(tasks=("passkey",)))
    for row in document["effective"]:
        row |= {"effective_length": 512, "metric": "choice"}
    group = RetrievalGroup.of(RetrievalResult.from_dict(document))
    assert (group.unsolved, group.unanswered) == ([], ["passkey"])
    assert not any(axis.patches for axis in retrieval_figure(group).axes)


def test_nine_models_make_rows_of_maps():
    document = retrieval_document(tasks=("copy",))
    first = [row for row in document["results"] if row["model"] == "base"]
    document["results"] = [{**row, "model": name} for name in NINE for row in first]
    document["effective"] = [
        {**document["effective"][0], "model": name, "task": "copy"} for name in NINE
    ]
    document["middle"] = []
    figure = retrieval_figure(RetrievalGroup.of(RetrievalResult.from_dict(json_again(document))))
    figure.draw_without_rendering()
    assert figure.get_figwidth() < 15
    titles = [axis._left_title for axis in figure.axes if axis.axison]
    assert len(titles) == 9
    spans = [title.get_window_extent() for title in titles]
    for one, other in pairwise(spans):
        assert not one.overlaps(other)
    assert max(span.x1 for span in spans) <= figure.bbox.width


def json_again(document):
    return json.loads(json.dumps(document))


def test_a_group_of_one_model_needs_no_legend():
    rows = several(["base"]).results
    group = PerplexityGroup("", 256, results=list(rows))
    figure = one_chart(lambda axis: draw_perplexity(axis, rows, window=256, order=group.models))
    assert figure.legends == []
