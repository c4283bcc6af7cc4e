"""A report over documents that somebody broke: made whole, or one sentence."""

import json
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings

from ctxext.api.report import make_report
from ctxext.report.charts.svg import Chart
from support.fuzzing import CASES, answers, as_text, broken, broken_bytes, fuzzed
from support.report_samples import CONFIG_DIFF, DOCUMENTS, write_run


class Page(HTMLParser):
    """Every element of a page; text that became one would be among them."""

    def __init__(self, text):
        super().__init__()
        self.tags = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)


@pytest.fixture
def no_charts(monkeypatch):
    """Nothing is drawn: matplotlib takes half a second for each chart."""
    monkeypatch.setattr("ctxext.report.page.html.inline_svg", _no_svg)


def _no_svg(chart: Chart, identity: str) -> str:
    return "<svg></svg>"


def check_report(folder):
    """Hold the report of a run to its form; True where there is one."""
    out = folder / "report.html"
    out.unlink(missing_ok=True)
    report, _ = answers(make_report, [folder], output=out)
    if report is not None:
        json.loads(json.dumps(report.to_dict()), parse_constant=pytest.fail)
        text = out.read_text(encoding="utf-8")
        assert not Page(text).tags & {"script", "img", "iframe", "object", "b"}
    return report is not None


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_documents_with_other_values(tmp_path, no_charts, kind):
    folder = write_run(tmp_path / "run", kind)

    @fuzzed
    @given(broken(DOCUMENTS[kind]))
    def run(document):
        (folder / f"{kind}.json").write_text(as_text(document))
        check_report(folder)

    run()


@pytest.mark.parametrize("kind", ["eval-ppl", "eval-retrieval", "demo"])
def test_charts_of_documents_with_other_values(tmp_path, kind):
    folder = write_run(tmp_path / "run", kind)

    @settings(fuzzed, max_examples=-(-CASES // 100))
    @given(broken(DOCUMENTS[kind]))
    def run(document):
        (folder / f"{kind}.json").write_text(as_text(document))
        check_report(folder)

    run()


def test_documents_with_other_bytes(tmp_path, no_charts):
    folder = write_run(tmp_path / "run", "eval-ppl")

    @fuzzed
    @given(broken_bytes(json.dumps(DOCUMENTS["eval-ppl"]).encode()))
    def run(data):
        (folder / "eval-ppl.json").write_bytes(data)
        check_report(folder)

    run()


def test_records_and_logs(tmp_path, no_charts):
    folder = write_run(tmp_path / "run", "finetune")
    record = {
        "schema": "ctxext.run/1", "kind": "finetune", "versions": {"torch": "2.13.0"},
        "window": {"original": 256, "target": 2048}, "method": "yarn", "config_diff": CONFIG_DIFF,
        "base": {"id": "base"}, "training": {"steps": 3, "tokens": 900, "final_loss": 1.0},
        "command": "ctxext finetune base",
    }  # fmt: skip
    line = {"step": 1, "loss": 2.0, "grad_norm": 0.5, "lr": 1e-3, "tokens": 300}
    log = [line, line | {"step": 2, "skipped": "a spike"}, line | {"step": 3, "loss": None}]

    @fuzzed
    @given(broken(record), broken(log))
    def run(new, lines):
        (folder / "ctxext.json").write_text(as_text(new))
        (folder / "log.jsonl").write_text("".join(as_text(line) + "\n" for line in lines))
        check_report(folder)

    run()
