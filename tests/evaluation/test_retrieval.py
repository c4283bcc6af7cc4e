"""Retrieval scores of models whose behaviour is known."""

import pytest
import torch

from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import CtxextError
from ctxext.evaluation.retrieval.answering import Answerer
from ctxext.evaluation.retrieval.haystack import noise
from ctxext.evaluation.retrieval.pooling import pooled
from ctxext.evaluation.retrieval.scores import Asking
from ctxext.evaluation.retrieval.tasks import TASKS, get_task
from ctxext.evaluation.statistics.middle import middle_of
from support.checkpoints import build_tiny
from support.readers import BYTES, Reader

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def cells_of(reader, task, length, *, depths=DEPTHS, samples=4, **how):
    asking = Asking(Answerer(reader), BYTES, noise, **how)
    return asking.cells(get_task(task), "compact", length, depths=depths, samples=samples, seed=3)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [400, 1500])
def test_a_perfect_reader_is_right_everywhere(task, length):
    for cell in cells_of(Reader(task), task, length, samples=2):
        assert cell.accuracy == 1.0, cell
        assert cell.choice in (None, 1.0)
        assert cell.gain > 3


@pytest.mark.parametrize("task", TASKS)
def test_and_generates_what_it_reads(task):
    for cell in cells_of(Reader(task), task, 600, depths=(0.0, 1.0), samples=2, score="generate"):
        assert cell.accuracy == 1.0
        assert cell.choice is cell.gain is None


def test_one_that_sees_nothing_scores_chance():
    for task in ("passkey", "multi-key", "key-value"):
        for cell in cells_of(Reader(task, window=0), task, 500):
            assert cell.accuracy == 0.0
            assert cell.choice == cell.chance == 0.25  # all alike: a tie of four
            assert cell.gain == pytest.approx(0.0, abs=1e-6)


def test_a_random_model_scores_chance(tmp_path):
    opened = open_checkpoint(str(build_tiny(tmp_path / "tiny")))
    model = load_model(opened.source, opened.position)
    found = pooled(cells_of(model, "multi-key", 300, depths=(0.2, 0.8), samples=40))
    assert found.accuracy == 0.0
    assert found.choice_low < 0.25 < found.choice_high
    assert found.samples == 80


@pytest.mark.parametrize("task", ["copy", "passkey", "needle", "multi-key", "key-value"])
def test_a_sliding_window_fails_exactly_beyond_it(task):
    window = 500
    reader = Reader(task, window=window)
    asking = Asking(Answerer(reader), BYTES, noise)
    seen = {True: [], False: []}
    for length in (400, 900):
        for depth in DEPTHS:
            question = asking.question(get_task(task), "compact", length, depth, "3 0")
            said = bytes(question.prompt).decode("latin-1")
            mark = question.answers[0].strip() if task != "copy" else said.rpartition("\n")[2]
            # the answer's last byte is read when the reader looks back this far
            reaches = len(question.prompt) - said.find(mark)
            (cell,) = cells_of(reader, task, length, depths=(depth,), samples=1)
            if abs(reaches - window) > 60:  # the needle is not cut by the window's edge
                seen[reaches < window].append(cell.accuracy)
    assert set(seen[True]) == {1.0}
    assert set(seen[False]) == {0.0}


def test_a_blind_middle_is_called_lost():
    reader = Reader("passkey", blind=(0.3, 0.7))
    cells = cells_of(reader, "passkey", 900, depths=(0.0, 0.25, 0.5, 0.75, 1.0), samples=6)
    assert [cell.accuracy for cell in cells] == [1.0, 1.0, 0.0, 1.0, 1.0]
    found = middle_of([(cell.depth, cell.accuracy, cell.samples) for cell in cells])
    assert found.lost
    assert (found.middle, found.ends) == (0.0, 1.0)
    whole = cells_of(Reader("passkey"), "passkey", 900, samples=6)
    assert not middle_of([(c.depth, c.accuracy, c.samples) for c in whole]).lost


def test_depths_differ_in_nothing_but_place():
    asking = Asking(Answerer(Reader("needle")), BYTES, noise)
    first, last = (
        asking.question(get_task("needle"), "compact", 500, depth, "7 1") for depth in (0.0, 1.0)
    )
    assert first.answers == last.answers
    assert [w.ids for w in first.wrong] == [w.ids for w in last.wrong]
    assert sorted(first.text) == sorted(last.text)


def test_a_habit_is_no_retrieval():
    """A model that always says one number, whatever the text: the needle's absence cancels it."""

    class Habit(Reader):
        def next_byte(self, text):
            line = text.rpartition("\n")[2]
            said = line.partition(":")[2]
            return " 77777777"[len(said)] if len(said) < 9 else None

    cells = cells_of(Habit("multi-key"), "multi-key", 500, samples=8)
    found = pooled(cells)
    assert found.accuracy == 0.0
    assert found.choice == pytest.approx(0.25)
    assert found.gain == pytest.approx(0.0, abs=1e-5)


def test_nan_is_named():
    class Broken(Reader):
        def forward(self, input_ids, use_cache=False, logits_to_keep=0):
            out = super().forward(input_ids, use_cache, logits_to_keep)
            out.logits = out.logits * torch.nan
            return out

    with pytest.raises(CtxextError, match="model returned nan"):
        cells_of(Broken("passkey"), "passkey", 300)
