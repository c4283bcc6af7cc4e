"""Dry runs of broken configs with broken recipes: a plan that adds up, or one sentence."""

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ctxext.api.finetune_plan import plan_finetune
from ctxext.cli._plan import show_plan
from ctxext.machine.gpus import GPUS
from support.fuzzing import answers, as_text, broken, fuzzed

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192,
    "rope_theta": 500000.0, "torch_dtype": "float16", "tie_word_embeddings": False,
    "num_experts_per_tok": 1, "num_local_experts": 1, "sliding_window": None,
}  # fmt: skip
RECIPE = {
    "lora": {"rank": 16, "dropout": 0.1, "train_norms": True, "train_embeddings": True},
    "train": {
        "seq_length": 8192, "steps": 3, "batch_size": 2, "gradient_accumulation": 2,
        "loss_chunk": 0, "what": "lora",
    },
    "memory": {"recompute": "auto", "offload": "activations", "mlp_tile": 512, "limit_gib": 0.0},
    "parallel": {"context": 1, "shard": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder():
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as root:
        yield Path(root)


@fuzzed
@given(
    config=broken(CONFIG),
    recipe=st.one_of(st.just(RECIPE), broken(RECIPE)),
    gpu=st.sampled_from([*GPUS, "t4-16gb", "", "h100"]),
    gpus=st.sampled_from([None, 1, 2, 8, 10**6]),
    dtype=st.sampled_from(["auto", "bfloat16", "float32", "float16", "x"]),
)
def test_a_plan_or_one_sentence(folder, config, recipe, gpu, gpus, dtype):
    text = as_text(config)
    (folder / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    plan, _ = answers(plan_finetune, str(folder), recipe=recipe, gpu=gpu, gpus=gpus, dtype=dtype)
    if plan is None:
        return
    json.dumps(plan.to_dict(), allow_nan=False)
    show_plan(plan)
    parts = plan.memory.parts()
    assert all(size >= 0 for size in parts.values()), parts
    assert max(parts.values()) <= plan.memory.peak * 2
    assert plan.memory.peak > 0
    assert plan.longest >= 0
    assert math.isfinite(plan.seconds)
