"""Copying: controls with known behaviour, and rows that hold what they claim."""

import numpy as np
import pytest
import torch

from ctxext.errors import BadInput
from ctxext.evaluation.retrieval.copying import copying, planted_rows

TEXT = [np.random.default_rng(3).integers(0, 256, 5000).astype(np.uint32)]
ALPHABET = list(range(33, 127))


class Copier(torch.nn.Module):
    """Predicts the token that followed the last earlier occurrence of the current one, if that
    lies at most `reach` tokens back: an induction head with a known limit."""

    def __init__(self, reach):
        super().__init__()
        self.reach = reach
        self.parameter = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, use_cache, logits_to_keep):
        ids = input_ids[0].tolist()
        logits = torch.zeros(1, len(ids), 256)
        for at in range(len(ids) - logits_to_keep, len(ids)):
            for back in range(16, min(self.reach, at) + 1):
                # three tokens alike, so that chance repeats in the text do not count
                if ids[at - back - 2 : at - back + 1] == ids[at - 2 : at + 1]:
                    logits[0, at, ids[at - back + 1]] = 1
                    break

        class Out:
            pass

        Out.logits = logits[:, -logits_to_keep:]
        return Out


def test_rows_hold_each_string_twice():
    rows = planted_rows(TEXT, ALPHABET, length=600, distances=[64, 300], samples=5, seed=0)
    for row in rows:
        for start, distance in ((600 - 32, 64), (600 - 16, 300)):
            string = row[start : start + 16]
            assert len(set(string)) == 16
            assert (row[start - distance : start - distance + 16] == string).all()
    assert len({tuple(row[-16:]) for row in rows}) == 5
    assert len({tuple(row[-32:-16]) for row in rows}) == 5


def test_a_perfect_copier_scores_one_and_a_short_one_fails_beyond_its_reach():
    arguments = {"length": 600, "distances": [64, 200, 512], "samples": 4}
    perfect = copying(Copier(600), TEXT, ALPHABET, **arguments)
    assert [s.accuracy for s in perfect] == [1, 1, 1]
    short = copying(Copier(200), TEXT, ALPHABET, **arguments)
    assert [s.accuracy for s in short] == [1, 1, 0]


def test_a_random_model_scores_chance(tiny_llama):
    from ctxext.checkpoints.live.load import load_model
    from ctxext.checkpoints.opened import open_checkpoint

    opened = open_checkpoint(str(tiny_llama))
    model = load_model(opened.source, opened.position)
    (score,) = copying(model, TEXT, ALPHABET, length=128, distances=[64], samples=32)
    assert score.accuracy < 0.06  # chance is 1 / 256


def test_refuses_what_does_not_fit():
    with pytest.raises(BadInput, match="do not fit"):
        planted_rows(TEXT, ALPHABET, length=100, distances=[90], samples=1, seed=0)
    with pytest.raises(BadInput, match="without touching"):
        planted_rows(TEXT, ALPHABET, length=600, distances=[64, 90], samples=1, seed=0)
    with pytest.raises(BadInput, match="no document"):
        planted_rows(TEXT, ALPHABET, length=6000, distances=[90], samples=1, seed=0)
