"""A run whose tiles, moved norms or kernels are wrong is refused before its first step."""

import numpy as np
import pytest

from ctxext.checkpoints.live import tiling
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.data.documents import choose_documents
from ctxext.data.mixture import Mixture
from ctxext.data.packing import PackedRows
from ctxext.errors import CtxextError
from ctxext.runs.recipe.config import FinetuneConfig, LoraConfig, TrainConfig
from ctxext.runs.recipe.memory_config import MemoryConfig
from ctxext.training.attention import documents
from ctxext.training.model.batch import TrainingRows
from ctxext.training.run.setting import Base, Listeners, Where
from ctxext.training.run.stop import StopRequest
from ctxext.training.run.train import train_adapter

TILE = 300  # longer than what the self-check reads


def only_whole_tiles(mlp, rows):
    """Slices that forget what is left over after the last whole tile."""
    return (slice(at, at + mlp.tile) for at in range(0, rows - mlp.tile + 1, mlp.tile))


def without_past(query, key, value, *rest, **more):
    return value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)


BROKEN = {
    "tile": (tiling.TiledMLP, "slices", only_whole_tiles),
    "norm": (tiling, "norm_before_mlp", lambda layer: layer.input_layernorm),
    "kernel": (documents, "_causal", without_past),
}


def train(folder, out):
    opened = open_checkpoint(str(folder))
    ids = np.random.default_rng(0).integers(0, 250, 4000).astype(np.uint32)
    rows = PackedRows(choose_documents(ids, np.array([500, 1300, 4000])), 512, 0)
    config = FinetuneConfig(
        lora=LoraConfig(rank=2),
        train=TrainConfig(seq_length=512, steps=1, batch_size=1, gradient_accumulation=1),
        memory=MemoryConfig(mlp_tile=TILE),
    )
    reports = []
    out.mkdir()
    trained = train_adapter(
        Base(opened.source, opened.position, "base"),
        TrainingRows(Mixture((rows,), (1.0,), 0), "", separate=True), config, Where(out),
        Listeners(start=reports.append), StopRequest(),
    )  # fmt: skip
    assert trained.state.step == 1
    return reports[0].loss_difference


def test_a_run_that_computes_rightly_passes(shipped, tmp_path):
    assert 0 <= train(shipped, tmp_path / "out") < 1e-5


@pytest.mark.parametrize("broken", sorted(BROKEN))
def test_a_run_that_computes_wrongly_is_refused(broken, shipped, tmp_path, monkeypatch):
    owner, name, replacement = BROKEN[broken]
    monkeypatch.setattr(owner, name, replacement)
    with pytest.raises(CtxextError, match="self-check failed"):
        train(shipped, tmp_path / "out")
    assert not (tmp_path / "out" / "log.jsonl").exists()
