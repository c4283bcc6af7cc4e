"""A merge holds one tensor, not the checkpoint; and a disk that fills up leaves nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_merge import make_adapter
from transformers import AutoConfig, AutoModelForCausalLM

from support.bad_inputs import content
from support.checkpoints import build_tiny
from support.command import run_ctxext

MIB = 1024 * 1024
HIDDEN, LAYERS = 1024, 20
CODE = """
import json, sys
import torch, safetensors.torch
def peak():  # ru_maxrss would begin with the parent's; this is the process's own
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
# What the arithmetic itself loads when it is first used is not the merge's.
torch.linalg.norm(torch.ones(8, 8) @ torch.ones(8, 8), dim=1)
from transformers import AutoConfig, AutoModelForCausalLM
with torch.device("meta"):
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(sys.argv[2]))
from ctxext.api.merge import merge
before = peak()
result = merge(sys.argv[1], base=sys.argv[2], output_dir=sys.argv[3], verify=sys.argv[4] == "1")
print(json.dumps({"grew": peak() - before, "bytes": result.bytes}))
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """160 MiB of float32 in 20 shards, and a DoRA adapter on every matrix of them."""
    root = tmp_path_factory.mktemp("big")
    base, adapter = root / "base", root / "adapter"
    build_tiny(base)
    config = json.loads((base / "config.json").read_text())
    config |= {
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 16,
        "num_key_value_heads": 1, "head_dim": HIDDEN // 16, "intermediate_size": 16,
    }  # fmt: skip
    (base / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
    rest = {name: torch.zeros(tensor.shape) for name, tensor in model.state_dict().items()}
    (base / "model.safetensors").unlink()
    adapter.mkdir()
    torch.manual_seed(0)
    updates, where = {}, {}
    for layer in range(LAYERS):
        file = f"model-{layer + 1:05d}-of-{LAYERS:05d}.safetensors"
        shard = {}
        for name in ("q_proj", "o_proj"):
            module = f"model.layers.{layer}.self_attn.{name}"
            shard[f"{module}.weight"] = torch.randn(HIDDEN, HIDDEN)
            del rest[f"{module}.weight"]
            key = f"base_model.model.{module}"
            updates[f"{key}.lora_A.weight"] = torch.randn(2, HIDDEN)
            updates[f"{key}.lora_B.weight"] = torch.randn(HIDDEN, 2)
            updates[f"{key}.lora_magnitude_vector"] = torch.rand(HIDDEN)
        save_file(shard, base / file, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, file)
    save_file(rest, base / "model-rest.safetensors", metadata={"format": "pt"})
    where |= dict.fromkeys(rest, "model-rest.safetensors")
    total = 2 * LAYERS * HIDDEN * HIDDEN * 4 + sum(4 * tensor.numel() for tensor in rest.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file(updates, adapter / "adapter_model.safetensors")
    words = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": True, "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(words))
    return base, adapter


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("verify", [False, True])
def test_peak_memory_is_a_few_tensors(big, tmp_path, verify):
    """One tensor is 4 MiB; the checkpoint is 160 MiB, and never there as a whole."""
    base, adapter = big
    done = subprocess.run(
        [sys.executable, "-c", CODE, adapter, base, tmp_path / "out", str(int(verify))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["bytes"] > 150 * MIB
    print(f"grew by {told['grew'] / MIB:.1f} MiB")
    assert told["grew"] < 100 * MIB


def test_a_full_disk_leaves_the_old_output(small_disk, tmp_path):
    """The weights would fit (half a MiB); the side files beside them fill the disk."""
    base = build_tiny(tmp_path / "base", shard="60KB")
    make_adapter(base, tmp_path / "adapter", use_dora=True)
    disk = small_disk(2 * MIB)
    old = disk / "out"
    shutil.copytree(base, old)
    (old / "ctxext.json").write_text("{}")
    (base / "LICENSE").write_bytes(b"x" * int(1.2 * MIB))
    before = content(disk)
    done = run_ctxext(
        "merge", tmp_path / "adapter", "--base", base, "-o", old, "--overwrite", "--verify"
    )
    assert done.returncode == 1
    assert "disk is full" in done.stderr
    assert content(disk) == before
