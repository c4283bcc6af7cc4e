"""Batches and the loop: what is scored is what counts, however a step is cut into passes."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.data.documents import choose_documents
from ctxext.data.mixture import Mixture
from ctxext.data.packing import PackedRows
from ctxext.data.positions import PositionSkips
from ctxext.errors import CtxextError
from ctxext.machine.launch import Launch
from ctxext.runs.log import StepLog
from ctxext.runs.recipe.config import LoraConfig, TrainConfig
from ctxext.runs.rows.training import RunState
from ctxext.training.attention.documents import separate_documents
from ctxext.training.model.batch import TrainingRows
from ctxext.training.model.lora import LossModel, add_adapters
from ctxext.training.model.loss import IGNORED
from ctxext.training.parallel.mesh import Mesh
from ctxext.training.run.loop import Prepared, train_steps
from ctxext.training.run.setting import Listeners
from ctxext.training.run.stop import StopRequest


def rows(lengths, length, **options):
    ends = np.cumsum(np.array(lengths, dtype=np.int64))
    ids = np.random.default_rng(0).integers(0, 256, int(ends[-1])).astype(np.uint32)
    parts = (PackedRows(choose_documents(ids, ends), length, 0),)
    return TrainingRows(Mixture(parts, (1.0,), 0), "", **options)


def test_labels_and_positions_by_hand():
    batch = rows([3, 1, 2], 6, separate=True).batch(0, 1)
    a, b, c, d, e, f = batch.input_ids[0].tolist()
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 0, 1]]
    assert batch.labels.tolist() == [[b, c, IGNORED, IGNORED, f, IGNORED]]
    assert batch.attention_mask is None  # a mask would make transformers attend across
    stream = rows([3, 1, 2], 6).batch(0, 1)
    assert stream.labels.tolist() == [[b, c, d, e, f, IGNORED]]
    assert stream.position_ids is None
    skipped = rows([3, 1, 2], 6, skips=PositionSkips(6, 60, 2, 0)).batch(5, 2)
    assert skipped.position_ids.tolist() == PositionSkips(6, 60, 2, 0).batch(5, 2).tolist()
    assert skipped.attention_mask.tolist() == [[1] * 6] * 2
    assert stream.first(3).input_ids.tolist() == [[a, b, c]]


def test_targets_are_counted_without_the_text():
    for options in ({}, {"separate": True}, {"skips": PositionSkips(7, 70, 2, 0)}):
        data = rows([3, 1, 2, 20, 9, 1, 1, 30], 7, **options)
        for first, count in ((0, 4), (3, 11)):
            labels = data.batch(first, count).labels
            assert data.targets(first, count) == int((labels != IGNORED).sum())
    with pytest.raises(CtxextError, match="documents of one token only"):
        rows([1] * 12, 6, separate=True).targets(0, 2)


def run(folder, out, data, batch_size, accumulation):
    opened = open_checkpoint(str(folder))
    torch.manual_seed(0)
    base = load_model(opened.source, opened.position)
    if data.separate:
        separate_documents(base, torch.device("cpu"))
    model = LossModel(add_adapters(base, LoraConfig(rank=4), "tiny"), 64).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    config = TrainConfig(
        seq_length=data.seq_length, steps=3, batch_size=batch_size,
        gradient_accumulation=accumulation, warmup_steps=0,
    )  # fmt: skip
    log = StepLog(out, after=0)
    train_steps(
        Prepared(model, model, optimizer, data, Accelerator(cpu=True), Mesh(Launch())), config,
        RunState(0, 0, {}, "", rows_per_step=batch_size * accumulation),
        log=log, save=lambda _: None, stop=StopRequest(), listeners=Listeners(),
    )  # fmt: skip
    log.close()
    return [(line.loss, line.grad_norm) for line in log.lines]


def test_passes_with_unequal_targets_weigh_by_token(tmp_path, tiny_llama):
    # Rows of very unequal numbers of targets: one long document, then 60 of two tokens.
    data = rows([256, *[2] * 120], 64, separate=True)
    counts = [data.targets(n, 1) for n in range(7)]
    assert len(set(counts)) > 1
    one = run(tiny_llama, tmp_path / "one", data, 4, 1)
    four = run(tiny_llama, tmp_path / "four", data, 1, 4)
    assert np.allclose(one, four, rtol=2e-5)
