"""How long the rest takes: by hand, and as a person is told."""

import re

import pytest

from ctxext.api.perplexity import perplexity
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.evaluation.reading.forecast import Forecast, cost_of


class Clock:
    """A clock that tests turn."""

    now = 0.0

    def __call__(self):
        return self.now


def test_by_hand():
    """Windows of 10 and 100 operations; one takes a second, and three in the first window read."""
    said, told, clock = [], [], Clock()
    forecast = Forecast(240.0, on_note=told.append, clock=clock)

    def listen(task, costs):
        return forecast.listener(
            task, [1] * len(costs), costs, lambda *report: said.append(report[1:])
        )

    short = listen("at 1k", [10.0] * 4)
    short([0])  # of an earlier run
    clock.now += 30
    short([1])
    # 30 s for 10; 2 x 10 and 2 x 100 are left
    assert said == [(1, 4, ""), (2, 4, "about 11 min left in all")]
    assert forecast.left() == 660
    assert told == ["about 11 min more for all of it, by the speed of what was read so far"]
    clock.now += 10
    short([2])  # what the first one paid for once is paid
    assert forecast.left() == 210
    clock.now += 10
    short([3])
    long = listen("at 4k", [100.0, 100.0])
    long([])
    clock.now += 100
    long([0])
    assert said[-1] == (1, 2, "about 100 s left in all")
    assert len(told) == 1


def test_what_failed_is_not_waited_for():
    clock = Clock()
    forecast = Forecast(30.0, clock=clock)
    forecast.begin(20.0, known=0.0)
    forecast.begin(10.0, known=0.0)  # memory ran out, and the next length begins
    clock.now += 5
    forecast.did(5.0)
    assert forecast.left() == 5


def test_ranks_share_a_task():
    """Two of four pieces are mine, and the other process has done as many meanwhile."""
    clock = Clock()
    forecast = Forecast(4.0, ranks=2, clock=clock)
    forecast.begin(4.0, known=0.0)
    clock.now += 3
    forecast.did(1.0)
    assert forecast.left() == 3


def test_a_window_costs_its_tokens_and_its_pairs(tiny_llama):
    checkpoint = open_checkpoint(str(tiny_llama))
    config = checkpoint.config
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    heads, width = config["num_attention_heads"], checkpoint.position.head_dim
    kv = config["num_key_value_heads"] * width
    layer = hidden * (2 * heads * width + 2 * kv) + 3 * hidden * inner
    for length in (1, 512):
        pairs = length * (length + 1) / 2
        by_hand = config["num_hidden_layers"] * (2 * length * layer + 4 * heads * width * pairs)
        assert cost_of(checkpoint)(length) == pytest.approx(by_hand)


def test_a_run_says_it_from_its_first_windows_on(tmp_path, tiny_llama, book):
    data = tmp_path / "text.txt"
    data.write_text(book.read_text()[:40_000])
    reports = []
    perplexity(
        str(tiny_llama), data=str(data), lengths=[128, 512], stride=64,
        on_progress=lambda *report: reports.append(report),
    )  # fmt: skip
    first = [report for report in reports if report[0].endswith("at 128")]
    assert first[0][1:] == (0, first[0][2], "")
    assert all(re.search(r"about \d.* left in all", report[3]) for report in first[1:-1])
    assert first[-1][1] == first[-1][2]
