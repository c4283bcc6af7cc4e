"""Adapters that do not belong on a base, or are not all there."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge import make_adapter

from ctxext.api.merge import merge
from ctxext.checkpoints.weights.adapter import read_adapter
from ctxext.checkpoints.weights.adapter_fit import check_fits
from ctxext.checkpoints.weights.files import read_weights
from ctxext.errors import BadInput
from support.checkpoints import build_tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers"),
    pytest.mark.filterwarnings("ignore:Could not find a config file"),
]
PREFIX = "base_model.model."


def without(folder, *ends):
    """Remove the tensors whose names end so from an adapter."""
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    kept = {name: t for name, t in tensors.items() if not name.endswith(ends)}
    assert len(kept) < len(tensors)
    save_file(kept, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("saved", "lost", "tied"),
    [
        (["embed_tokens", "lm_head"], "lm_head.weight", False),
        (["embed_tokens", "lm_head"], "embed_tokens.weight", False),
        (["embed_tokens", "lm_head"], "lm_head.weight", True),
        (["norm"], "layers.1.input_layernorm.weight", False),  # peft means all that end so
        (["norm", "lm_head"], "model.norm.weight", False),
        (["layers.1.mlp"], "layers.1.mlp.up_proj.weight", False),
        (["q_proj"], "layers.0.self_attn.q_proj.bias", False),
    ],
)
def test_a_whole_module_that_is_missing_is_named(tmp_path, saved, lost, tied):
    family = "qwen2" if "bias" in lost else "llama"  # whose q_proj has one
    base = build_tiny(tmp_path / "base", family, tied=tied)
    make_adapter(base, tmp_path / "adapter", target_modules=["v_proj"], modules_to_save=saved)
    merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "whole")
    without(tmp_path / "adapter", lost)
    with pytest.raises(BadInput, match="does not hold") as caught:
        merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out")
    assert lost in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_one_matrix_under_one_of_its_names_is_all_there(tmp_path):
    base = build_tiny(tmp_path / "base", tied=True)
    make_adapter(
        base, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"],
        ensure_weight_tying=True,
    )  # fmt: skip
    without(tmp_path / "adapter", "lm_head.weight")
    done = merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    assert not any("tied" in warning for warning in done.warnings)


def test_a_name_that_the_model_does_not_have_was_not_trained(tmp_path, tiny_llama):
    """peft passes over such names; trainers list those of several families."""
    make_adapter(tiny_llama, tmp_path / "adapter", modules_to_save=["wte", "norm"])
    merge(tmp_path / "adapter", base=str(tiny_llama), output_dir=tmp_path / "out")


def test_updates_that_are_missing_are_said(tmp_path, tiny_llama):
    make_adapter(tiny_llama, tmp_path / "adapter")
    without(tmp_path / "adapter", "v_proj.lora_A.weight", "v_proj.lora_B.weight")
    weights = read_weights(tiny_llama)
    (warning,) = check_fits(read_adapter(tmp_path / "adapter"), weights, tied=False)
    assert "says it adapts v_proj" in warning
    assert "layers.0.self_attn.v_proj.weight and 1 more" in warning
    make_adapter(tiny_llama, tmp_path / "narrow", layers_to_transform=[0])
    assert check_fits(read_adapter(tmp_path / "narrow"), weights, tied=False) == []


@pytest.mark.parametrize("rows", [(264, 256), (256, 264)], ids=["added", "removed"])
@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["lm_head"]},
        {"target_modules": ["embed_tokens"]},
    ],
    ids=["saved-embedding", "saved-head", "head", "embedding"],
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_resized_vocabulary_is_said_with_both_sizes(tmp_path, rows, settings, tied):
    trained, base = rows
    make_adapter(
        build_tiny(tmp_path / "trained", tied=tied, vocabulary=trained), tmp_path / "adapter",
        **settings,
    )  # fmt: skip
    folder = build_tiny(tmp_path / "base", tied=tied, vocabulary=base)
    with pytest.raises(BadInput) as caught:
        merge(tmp_path / "adapter", base=str(folder), output_dir=tmp_path / "out")
    assert str(trained) in str(caught.value)
    assert str(base) in str(caught.value)
    assert f"{trained} tokens in training and has {base} in the base" in caught.value.hint


def test_tensors_of_whole_numbers_and_none_at_all(tmp_path, tiny_llama):
    make_adapter(tiny_llama, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name].to(torch.int32)}, file)
    with pytest.raises(BadInput, match="dtype I32"):
        read_adapter(tmp_path / "adapter")
    save_file({}, file)
    with pytest.raises(BadInput, match="holds no tensors"):
        read_adapter(tmp_path / "adapter")
