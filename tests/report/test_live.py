"""The picture of a run's loss: there while it runs, whole at any time, and never in its way."""

import subprocess
import sys
import threading
import time

import ctxext
from ctxext.report.charts import live, training
from ctxext.report.charts.live import LossPlot
from ctxext.runs.rows.training import StepRow

PNG = b"\x89PNG\r\n\x1a\n"


def lines(count):
    return [StepRow(step=n + 1, tokens=n + 1, loss=3.0 / (n + 1) ** 0.5) for n in range(count)]


def test_a_run_leaves_its_picture(tiny_llama, book, tmp_path):
    train = {"steps": 2, "gradient_accumulation": 1, "seq_length": 64}
    ctxext.finetune(
        str(tiny_llama), output_dir=tmp_path / "run", device="cpu",
        recipe={"data": {"source": str(book)}, "train": train},
    )  # fmt: skip
    picture = (tmp_path / "run" / "loss.png").read_bytes()
    assert picture.startswith(PNG)
    assert picture.endswith(b"IEND\xaeB`\x82")
    assert not list((tmp_path / "run").glob(".loss*"))


def test_it_is_drawn_beside_the_steps_and_again_at_the_end(tmp_path, monkeypatch):
    drawn, go = [], threading.Event()
    honest = training.plot_loss

    def slow(path, rows, title):
        drawn.append((len(rows), threading.current_thread() is threading.main_thread()))
        assert go.wait(20)
        honest(path, rows, title)

    monkeypatch.setattr(training, "plot_loss", slow)
    path = tmp_path / "loss.png"
    with LossPlot(path, every=0.0) as plot:
        began = time.monotonic()
        for count in range(1, 50):
            plot.update(lines(count))
        assert time.monotonic() - began < 1, "steps do not wait for a picture"
        assert [count for count, _ in drawn] == [1], "nor are pictures drawn side by side"
        go.set()
    assert drawn == [(1, False), (49, True)]
    assert path.read_bytes().startswith(PNG)


def test_not_more_often_than_every_30_seconds(tmp_path, monkeypatch):
    drawn = []
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        training, "plot_loss", lambda path, rows, title: drawn.append(path.write_bytes(PNG))
    )
    with LossPlot(tmp_path / "loss.png") as plot:
        for second in range(95):
            now[0] = 100.0 + second
            plot.update(lines(second + 1))
            if plot._thread is not None:
                plot._thread.join()
        assert len(drawn) == 3
    assert len(drawn) == 4


def test_a_picture_that_fails_is_a_note_and_no_more(tmp_path):
    notes = []
    with LossPlot(tmp_path / "no such folder" / "loss.png", notes.append, every=0.0) as plot:
        for count in (1, 2, 3):
            plot.update(lines(count))
            plot._thread.join()
    assert len(notes) == 1
    assert notes[0].startswith("loss.png is not drawn: ")
    assert "No such file" in notes[0]


def test_nothing_trained_nothing_drawn(tmp_path):
    with LossPlot(tmp_path / "loss.png"):
        pass
    assert not list(tmp_path.iterdir())


def test_steps_without_a_loss_and_steps_left_out(tmp_path):
    rows = [*lines(5), StepRow(step=6, tokens=6, loss=None, skipped="the loss is not finite")]
    rows += [StepRow(step=7, tokens=7, loss=1e6, skipped="a spike")]
    rows += [StepRow(step=8, tokens=8, loss=1.0)]
    for name, some in (("all", rows), ("none", rows[5:6])):
        training.plot_loss(tmp_path / f"{name}.png", some)
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)


def test_matplotlib_waits_until_it_is_needed():
    code = "import sys, ctxext.api.finetune; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
