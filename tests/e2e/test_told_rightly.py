"""What is said of two checkpoints whose numbers are known: a gain is no noise, a loss is seen."""

import pytest

import ctxext
from ctxext.report.findings.differences import by_nll, differences

TEXT = "builtin:python/heldout"


@pytest.fixture(scope="module")
def extended(shipped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("told") / "extended"
    ctxext.extend(str(shipped), method="yarn", target=1024, output_dir=folder)
    return folder


@pytest.fixture(scope="module")
def runs(shipped, extended, tmp_path_factory):
    """Both checkpoints' perplexity, and the extended one's retrieval under another name."""
    root = tmp_path_factory.mktemp("runs")
    ctxext.perplexity(
        [str(shipped), str(extended)], data=TEXT, lengths=[256, 1024], tokens=9_000,
        stride=512,
        output_dir=root / "ppl",
    )  # fmt: skip
    ctxext.retrieval(
        [str(extended)], lengths=[512], tasks="copy", depths=[0.5], samples=4, names=["mine"],
        output_dir=root / "keys",
    )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def report(runs):
    return ctxext.make_report([runs / "ppl", runs / "keys"], output=None)


def test_yarn_against_its_base_at_four_times_the_window_is_no_noise(report):
    (group,) = report.findings.perplexity
    far = {d.place: d.apart for d in differences(group.results, by_nll)}[1024,]
    assert (far.paired, far.beyond_noise) == (True, True)
    assert far.difference < 0


def test_an_untouched_base_is_not_called_stable(report):
    base, yarn = (
        next(v for v in report.findings.verdicts if v.model == name) for name in ("base", "yarn 4x")
    )
    assert base.step in ("loses", "collapses")
    assert base.stable_to == 256
    assert yarn.rank < base.rank


def test_the_same_checkpoint_under_two_names_is_one_model(report):
    assert {v.model for v in report.findings.verdicts} == {"base", "yarn 4x"}
    assert report.findings.retrieval[0].models == ["yarn 4x"]


def test_a_length_beyond_the_window_alone_says_nothing_of_the_inside(shipped, extended, tmp_path):
    asked = ctxext.retrieval(
        [str(extended)], lengths=[512], tasks="copy", depths=[0.5], samples=2, output_dir=tmp_path
    )
    assert asked.lengths == (256, 512)  # the window is asked too
    assert any("256 is asked too" in warning for warning in asked.warnings)
    fixed = ctxext.retrieval(
        [str(extended)], lengths=[512], tasks="copy", depths=[0.5], samples=2, threshold="0.5"
    )
    assert fixed.lengths == (512,)
    assert not any("inside" in warning for warning in fixed.warnings)
    beyond = ctxext.perplexity(
        [str(shipped)], data=TEXT, lengths=[512, 1024], tokens=3_000, stride=512,
        output_dir=tmp_path / "ppl",
    )  # fmt: skip
    assert beyond.window == 256
    (told,) = ctxext.make_report([tmp_path / "ppl"], output=None).findings.verdicts
    assert "against its 512" not in told.sentence


def test_the_book_run_on_foreign_weights(stories, tmp_path):
    book = stories.parents[1] / "corpus" / "books" / "bleak-house.txt.xz"
    ctxext.extend(str(stories), method="yarn", target=2048, output_dir=tmp_path / "yarn")
    ctxext.perplexity(
        [str(stories), str(tmp_path / "yarn")], data=str(book), lengths=[512, 2048],
        tokens=20_000, stride=1024, output_dir=tmp_path / "ppl",
    )  # fmt: skip
    findings = ctxext.make_report([tmp_path / "ppl"], output=None).findings
    told = {verdict.model: verdict for verdict in findings.verdicts}
    base = told[stories.name]
    assert (base.step, base.far.apart.paired) == ("loses", True)
    assert base.far.apart.low > 0
    assert told["yarn 4x"].step in ("holds", "gains")
