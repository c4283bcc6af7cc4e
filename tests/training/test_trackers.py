"""Each step's numbers reach a tracker through accelerate's own interface."""

import json

import accelerate.tracking as tracking
import pytest
from accelerate import Accelerator

from ctxext.errors import CtxextError
from ctxext.runs.rows.training import StepRow
from ctxext.training.run.trackers import check_tracker, finish_tracker, report, start_tracker


class Lines(tracking.GeneralTracker):
    """Writes what it is told, one JSON line each."""

    name = "lines"
    requires_logging_directory = True

    def __init__(self, run_name, logging_dir=None):
        super().__init__()
        logging_dir.mkdir(parents=True, exist_ok=True)
        self.file = (logging_dir / "lines.jsonl").open("w")

    @property
    def tracker(self):
        return self.file

    def store_init_configuration(self, values):
        self.file.write(json.dumps(values) + "\n")

    def log(self, values, step, **_):
        self.file.write(json.dumps({"step": step, **values}) + "\n")

    def finish(self):
        self.file.close()


class Offline(Lines):
    name = "offline"

    def __init__(self, run_name, logging_dir=None):
        raise ConnectionError("no login")


@pytest.fixture
def registered(monkeypatch):
    for kind in (Lines, Offline):
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, kind.name, kind)


def test_recipe_and_steps_arrive(tmp_path, registered):
    check_tracker("lines")
    accelerator = Accelerator(cpu=True, log_with="lines", project_dir=tmp_path / "report")
    start_tracker(accelerator, "run", {"train.lr": 0.1, "lora.targets": ["q_proj"]})
    report(accelerator, StepRow(step=7, tokens=9, loss=2.5, skipped="why"))
    finish_tracker(accelerator)
    (file,) = (tmp_path / "report").rglob("lines.jsonl")
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"train.lr": 0.1, "lora.targets": "['q_proj']"},
        {"step": 7, "tokens": 9, "loss": 2.5},
    ]


def test_one_that_cannot_start(tmp_path, registered):
    accelerator = Accelerator(cpu=True, log_with="offline", project_dir=tmp_path)
    with pytest.raises(CtxextError, match="--report-to offline cannot start: no login"):
        start_tracker(accelerator, "run", {})


def test_without_one_nothing_happens():
    accelerator = Accelerator(cpu=True)
    start_tracker(accelerator, "run", {})
    report(accelerator, StepRow(step=1, tokens=1, loss=2.0))
    finish_tracker(accelerator)
