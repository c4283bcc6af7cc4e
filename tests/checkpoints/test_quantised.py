"""Quantised checkpoints: named as such, wherever their numbers would be needed."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge import make_adapter

from ctxext.api.extend import extend
from ctxext.api.finetune import finetune
from ctxext.api.finetune_plan import plan_finetune
from ctxext.api.inspect import inspect
from ctxext.api.merge import merge
from ctxext.api.perplexity import perplexity
from ctxext.checkpoints.config.quantised import quantised_by
from ctxext.errors import BadInput
from support.bad_inputs import copy_of
from support.command import run_ctxext

# As the libraries write them: transformers, AutoGPTQ, AutoAWQ, compressed-tensors, mlx-lm.
BLOCKS = [
    ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "gptq"),
    ({"quantization_config": {"quant_method": "awq", "version": "gemm"}}, "awq"),
    ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "fp8"),
    ({"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ({"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}}, "bitsandbytes"),
    ({"quantization": {"group_size": 64, "bits": 4}}, "mlx"),
]


@pytest.mark.parametrize(("config", "method"), BLOCKS)
def test_the_config_says_it(config, method):
    assert quantised_by(config) == method
    assert quantised_by(dict.fromkeys(config)) is None


@pytest.mark.parametrize(
    "name",
    ["qweight", "weight_scale_inv", "weight_packed", "weight.absmax", "weight.quant_state.b"],
)
def test_the_tensors_say_it(name):
    assert name in quantised_by({}, ["model.norm.weight", f"model.layers.0.mlp.up_proj.{name}"])
    assert quantised_by({}, ["model.norm.weight", "model.layers.0.mlp.up_proj.weight"]) is None


@pytest.fixture
def packed(tmp_path, tiny_llama):
    """A checkpoint as GPTQ leaves it."""
    block = {"quant_method": "gptq", "bits": 4}
    folder = copy_of(tiny_llama, tmp_path / "packed", quantization_config=block)
    file = folder / "model.safetensors"
    tensors = {}
    for name, tensor in load_file(file).items():
        if name.endswith("_proj.weight"):
            rows, columns = tensor.shape
            stem = name.removesuffix("weight")
            tensors[f"{stem}qweight"] = torch.zeros(columns // 8, rows, dtype=torch.int32)
            tensors[f"{stem}scales"] = torch.ones(1, rows, dtype=torch.float16)
        else:
            tensors[name] = tensor
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        ("int32", "bfloat16"), ("int8", "float32"), ("uint8", "bfloat16"),
        ("float8_e4m3fn", "bfloat16"), ("uint8", None),
    ],
)  # fmt: skip
def test_the_cache_is_not_counted_in_what_the_weights_are_packed_in(
    tmp_path, tiny_llama, dtype, kept
):
    folder = copy_of(tiny_llama, tmp_path / "packed", dtype=None, torch_dtype=None)
    file = folder / "model.safetensors"
    tensors = {
        name: tensor.to(getattr(torch, dtype if name.endswith("_proj.weight") else kept or dtype))
        for name, tensor in load_file(file).items()
    }
    packed = sum(t.numel() for name, t in tensors.items() if name.endswith("_proj.weight"))
    assert packed > sum(t.numel() for t in tensors.values()) / 2
    save_file(tensors, file, metadata={"format": "pt"})
    done = run_ctxext("inspect", folder, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    said = [warning for warning in found["warnings"] if "no float wider than 8 bits" in warning]
    assert found["dtype"] == kept
    # 2 layers x keys and values x 2 heads x 16 dims
    wide = {"bfloat16": 2 * 128, "float32": 4 * 128, None: None}[kept]
    assert found["kv_cache"]["bytes_per_token"] == wide
    assert len(said) == (kept is None)


def test_merging_training_and_evaluating_say_what_to_take(tmp_path, tiny_llama, packed, book):
    make_adapter(tiny_llama, tmp_path / "adapter")
    before = sorted(p.name for p in tmp_path.iterdir())
    recipe = {"data": {"source": str(book)}, "train": {"seq_length": 64, "steps": 1}}
    for work, words in (
        (
            lambda: merge(tmp_path / "adapter", base=str(packed), output_dir=tmp_path / "out"),
            r"the base is quantised \(gptq\): merge into the unquantised one",
        ),
        (
            lambda: finetune(str(packed), output_dir=tmp_path / "out", recipe=recipe),
            r"quantised \(gptq\): train the unquantised one",
        ),
        (lambda: plan_finetune(str(packed), recipe=recipe), "train the unquantised one"),
        (
            lambda: perplexity([str(packed)], data=str(book), lengths=[64], tokens=600),
            r"quantised \(gptq\): evaluate the unquantised one",
        ),
    ):
        with pytest.raises(BadInput, match=words):
            work()
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_extending_and_looking_need_no_numbers(tmp_path, packed):
    extend(str(packed), target=512, output_dir=tmp_path / "out")
    assert any("quantised (gptq)" in warning for warning in inspect(str(packed)).warnings)
