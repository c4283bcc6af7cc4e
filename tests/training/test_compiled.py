"""torch.compile of the layers computes what transformers' own forward computes."""

import pytest
import torch

from ctxext.checkpoints.live.tiling import tile_mlps
from ctxext.runs.log import read_log
from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.attention import windows
from ctxext.training.attention.windows import use_windows
from ctxext.training.memory.compiled import compile_layers
from ctxext.training.memory.offload import Offloader
from ctxext.training.memory.recompute import recompute_first
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.lora import LossModel
from support.adapted import adapted, gradients
from support.command import run_ctxext

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
    "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES = {
    "Llama": {},
    "Mistral": {"sliding_window": 24},
    "Gemma2": {"final_logit_softcapping": 3.0, "sliding_window": 24, "query_pre_attn_scalar": 16},
}
IDS = torch.randint(3, 97, (2, 80), generator=torch.Generator().manual_seed(0))


def build(family):
    targets = (*LoraConfig().targets, "gate_proj", "up_proj", "down_proj")
    lora = LoraConfig(rank=4, targets=targets, train_norms=True)
    return adapted(family, SHAPE | FAMILIES[family], lora)


def compiled_graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


# What is captured and how it meets the switches is the same without a C++ compiler, and quick.
@pytest.mark.parametrize(
    ("family", "switches", "backend"),
    [
        ("Llama", (), "aot_eager"),
        ("Llama", ("recompute",), "aot_eager"),
        ("Llama", ("recompute", "mlp_tile", "offload"), "aot_eager"),
        ("Mistral", ("recompute-some", "windows"), "aot_eager"),
        ("Gemma2", ("recompute",), "aot_eager"),
        pytest.param("Llama", ("recompute",), "inductor", marks=pytest.mark.slow),
        pytest.param("Mistral", ("mlp_tile", "windows"), "inductor", marks=pytest.mark.slow),
    ],
)
def test_compiled_layers_change_no_number(family, switches, backend, monkeypatch):
    monkeypatch.setattr(windows, "BLOCK", 32)
    torch._dynamo.reset()
    model = build(family)
    tokens = IDS.shape[0] * (IDS.shape[1] - 1)
    plain = gradients(model, model(input_ids=IDS, labels=IDS, use_cache=False).loss)
    if "windows" in switches:
        assert use_windows(model.get_base_model(), CPU, IDS.shape[1])
    if "mlp_tile" in switches:
        tile_mlps(model, 19)
    recomputed = {"recompute": None, "recompute-some": 2}.get(next(iter(switches), ""), 0)
    recompute_first(model, recomputed, Offloader() if "offload" in switches else None)
    before = compiled_graphs()
    assert compile_layers(model, backend) == 3
    loss = LossModel(model, 17).train()
    value, found = gradients(model, loss(plain_batch(IDS)) / tokens)
    graphs = compiled_graphs() - before
    assert graphs > 0
    if "windows" not in switches:  # those of one layer: before and after a tiled MLP
        assert graphs == (2 if "mlp_tile" in switches else 1)
    assert value == pytest.approx(plain[0], rel=1e-5)
    for name, expected in plain[1].items():
        assert expected.norm() > 0, name
        assert (found[name] - expected).norm() <= 1e-5 * expected.norm(), name
    again = gradients(model, loss(plain_batch(IDS)) / tokens)
    assert again[0] == pytest.approx(value, rel=1e-6)
    assert compiled_graphs() - before == graphs, "the second step compiles nothing"


def test_no_compiler_is_said_before_an_old_run_is_removed(tiny_llama, book, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "ctxext.json").write_text("{}")
    done = run_ctxext(
        "finetune", tiny_llama, "--data", book, "--output-dir", out, "--overwrite", "--compile",
        "--device", "cpu", "--seq-length", 64, "--steps", 1,
        env={"CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "\nctxext: train.compile: torch.compile does not work on cpu here" in done.stderr
    assert "leave out --compile" in done.stderr
    assert "Traceback" not in done.stderr
    assert (out / "ctxext.json").read_text() == "{}"


@pytest.mark.slow
def test_a_compiled_run_logs_the_same_losses(tiny_llama, book, tmp_path):
    logs = []
    for name, more in (("plain", ()), ("compiled", ("--compile",))):
        done = run_ctxext(
            "finetune", tiny_llama, "--data", book, "--output-dir", tmp_path / name, *more,
            "--device", "cpu", "--seq-length", 64, "--steps", 3, "--gradient-accumulation", 2,
            timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        logs.append([line.loss for line in read_log(tmp_path / name / "log.jsonl")])
    assert len(logs[0]) == 3
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)
