"""Merging against peft itself: every weight bit for bit in float32."""

import json
import shutil

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ctxext.api.extend import extend
from ctxext.api.merge import merge
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.weights.adapter import ROPE_KEY, for_family, read_adapter
from ctxext.checkpoints.weights.files import read_weights
from ctxext.checkpoints.weights.low_rank import add_low_rank
from ctxext.checkpoints.weights.merge import merge_into
from ctxext.checkpoints.weights.merge_check import verify_merge
from ctxext.errors import BadInput, CtxextError
from support.checkpoints import build_tiny


def make_adapter(base, folder, **settings):
    """A peft adapter with random (non-zero) numbers, saved by peft."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(**{**config, **settings, "task_type": "CAUSAL_LM"})
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    wrapped.save_pretrained(folder)
    return wrapped


def assert_merge_is_pefts(base, adapter, wrapped, out):
    """Same weights bit for bit, same logits as base + adapter."""
    ids = torch.arange(96)[None] % 256
    with torch.no_grad():
        before = wrapped(input_ids=ids).logits
    expected = wrapped.merge_and_unload().state_dict()
    loaded = AutoModelForCausalLM.from_pretrained(out)
    got = loaded.state_dict()
    assert set(got) == set(expected)
    different = [name for name in got if not torch.equal(got[name], expected[name])]
    assert different == []
    with torch.no_grad():
        assert torch.allclose(loaded(input_ids=ids).logits, before, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"layers.1.self_attn.v_proj": 3}},
        {"modules_to_save": ["norm"]},
        {"modules_to_save": ["embed_tokens", "lm_head", "input_layernorm"]},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True, "rank_pattern": {"down_proj": 7}},
        {"target_modules": "all-linear", "use_dora": True, "modules_to_save": ["norm"]},
        {"init_lora_weights": "mica"},
    ],
    ids=[
        "lora", "rslora", "patterns", "norms", "embeddings", "dora", "dora-rslora-pattern",
        "dora-all-norms", "mica",
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_equals_peft(tmp_path, settings, family):
    base = build_tiny(tmp_path / "base", family, shard="60KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    wrapped = make_adapter(base, tmp_path / "adapter", **settings)
    result = merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    assert result.merged_tensors > 0
    assert result.verified > 10
    assert result.rounding.relative == 0
    assert_merge_is_pefts(base, tmp_path / "adapter", wrapped, tmp_path / "out")
    assert sorted(p.name for p in base.glob("*.safetensors")) == sorted(
        p.name for p in (tmp_path / "out").glob("*.safetensors")
    )


@pytest.mark.filterwarnings(
    "ignore:Adapter 'default'. 4 LoRA tensor.s. have invalid shape:peft.utils.warning.PeftWarning"
)  # it takes a bias for a shard
def test_lora_bias_is_added_to_the_bias(tmp_path):
    base = build_tiny(tmp_path / "base", "qwen2", shard="60KB")
    wrapped = make_adapter(
        base, tmp_path / "adapter", target_modules=["q_proj", "v_proj"], lora_bias=True
    )
    result = merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    assert result.merged_tensors == 8
    assert_merge_is_pefts(base, tmp_path / "adapter", wrapped, tmp_path / "out")


def test_an_adapter_that_peft_loads_again_and_merges(tmp_path):
    """peft's other door: from_pretrained on the saved DoRA adapter, not the model that made it."""
    base = build_tiny(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter", use_dora=True)
    merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(base)
    expected = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(got[n], t) for n, t in expected.state_dict().items())


@pytest.mark.parametrize("magnitude", [False, True])
def test_square_matrices_kept_as_in_out_are_transposed(magnitude):
    """By hand: a Conv1D (in, out) matrix whose shape cannot tell that it is one."""
    torch.manual_seed(0)
    weight, a, b = torch.randn(6, 6), torch.randn(2, 6), torch.randn(6, 2)
    m = torch.rand(6) if magnitude else None
    got = add_low_rank(weight, a, b, 0.5, magnitude=m, transposed=True)
    want = weight.T + 0.5 * b @ a
    if magnitude:
        for out in range(6):
            want[out] *= m[out] / sum(float(x) ** 2 for x in want[out]) ** 0.5
    assert torch.allclose(got, want.T, atol=1e-6)


def test_gpt2_layers_equal_peft(tmp_path):
    """Conv1D, square and not, plain and DoRA; tensor by tensor (GPT-2 itself has no rope)."""
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=32, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    base, names = tmp_path / "base", ["c_attn", "c_proj"]
    transformers.GPT2LMHeadModel(config).save_pretrained(base)
    for dora in (False, True):
        folder, out = tmp_path / f"adapter{dora}", tmp_path / f"out{dora}"
        wrapped = make_adapter(
            base, folder, target_modules=names, use_dora=dora, fan_in_fan_out=True
        )
        out.mkdir()
        adapter = for_family(read_adapter(folder), "gpt2")
        weights = read_weights(base)
        merge_into(weights, adapter, out, tie_word_embeddings=True)
        assert verify_merge(weights, adapter, out, tied=True) > 10
        expected = wrapped.merge_and_unload().state_dict()
        got = load_file(out / "model.safetensors")
        assert [n for n in got if not torch.equal(got[n], expected[n])] == []


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")  # what is asked here
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize(
    "targets", [["attn.c_proj"], ["attn.c_proj", "lm_head"], ["c_attn", "wte"]]
)
@pytest.mark.parametrize("flag", [False, True])
def test_the_way_round_of_gpt2_is_its_layers_whatever_the_flag_says(tmp_path, targets, flag):
    """peft leaves the flag as the last layer that it wrapped needs it: of a head, false."""
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=32, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    base, folder = tmp_path / "base", tmp_path / "adapter"
    transformers.GPT2LMHeadModel(config).save_pretrained(base)
    make_adapter(base, folder, target_modules=targets, fan_in_fan_out=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": flag}))
    merge(folder, base=str(base), output_dir=tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        want = peft.PeftModel.from_pretrained(model, folder)(ids).logits
        got = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out is set to True:UserWarning"
)  # what is asked here
def test_a_flag_of_gpt2_means_nothing_to_linear_layers(tmp_path):
    """Square matrices would be merged the wrong way round; peft sets the flag back, so do we."""
    base = build_tiny(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "o_proj"])
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": True}))
    merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    model = AutoModelForCausalLM.from_pretrained(base)
    expected = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(got[n], t) for n, t in expected.state_dict().items())


def test_tied_and_stored_twice_both_are_what_was_trained(tmp_path):
    base = build_tiny(tmp_path / "base", tied=True)
    file = base / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    make_adapter(
        base, tmp_path / "adapter", modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(got["lm_head.weight"], got["model.embed_tokens.weight"])
    assert not torch.equal(got["lm_head.weight"], tensors["lm_head.weight"])


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_tied_embedding_trained_and_kept_tied(tmp_path, family):
    base = build_tiny(tmp_path / "base", family, tied=True)
    wrapped = make_adapter(
        base, tmp_path / "adapter", modules_to_save=["embed_tokens"], ensure_weight_tying=True
    )
    merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out")
    assert_merge_is_pefts(base, tmp_path / "adapter", wrapped, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.filterwarnings(
    "ignore:Model has `tie_word_embeddings=True`:UserWarning"
)  # what is asked here
def test_tied_embedding_trained_apart_is_untied(tmp_path):
    base = build_tiny(tmp_path / "base", tied=True, shard="60KB")
    wrapped = make_adapter(base, tmp_path / "adapter", modules_to_save=["embed_tokens"])
    result = merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out")
    assert any("no longer tied" in warning for warning in result.warnings)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.tie_word_embeddings is False
    ids = torch.arange(64)[None]
    with torch.no_grad():
        assert torch.allclose(
            loaded(input_ids=ids).logits, wrapped(input_ids=ids).logits, atol=2e-5
        )


@pytest.mark.parametrize("dora", [False, True])
def test_bfloat16_is_added_in_float32_and_rounded_once(tmp_path, dora):
    base = build_tiny(tmp_path / "base", dtype="bfloat16")
    wrapped = make_adapter(base, tmp_path / "adapter", use_dora=dora)
    merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out")
    expected = wrapped.merge_and_unload().state_dict()
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert all(t.dtype == torch.bfloat16 for t in got.values())
    assert all(torch.equal(t, expected[name]) for name, t in got.items())


def test_dtype_converts_every_float_and_the_rounding_is_stated(tmp_path, tiny_llama):
    wrapped = make_adapter(tiny_llama, tmp_path / "adapter")
    out = tmp_path / "out"
    result = merge(
        tmp_path / "adapter", base=str(tiny_llama), output_dir=out, dtype="bf16", verify=True
    )
    assert {t.dtype for t in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    before = load_file(tiny_llama / "model.safetensors")
    exact = wrapped.merge_and_unload().state_dict()
    lost = {}  # by hand, in float64
    for name, tensor in exact.items():
        if not torch.equal(tensor, before[name]):
            error = (tensor.bfloat16().double() - tensor.double()).norm()
            change = (tensor.double() - before[name].double()).norm()
            lost[name] = float(error / tensor.double().norm()), float(error / change)
    assert len(lost) == result.merged_tensors
    assert result.rounding.relative == pytest.approx(max(r for r, _ in lost.values()), rel=1e-9)
    assert 1e-3 < result.rounding.relative < 2**-8
    assert result.rounding.of_update == pytest.approx(max(u for _, u in lost.values()), rel=1e-9)
    assert result.rounding.of_update == pytest.approx(lost[result.rounding.tensor][1])
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"


def test_rope_of_adapter_and_base_have_to_agree(tmp_path, tiny_llama):
    for method in ("yarn", "linear"):
        extend(str(tiny_llama), method=method, target=512, output_dir=tmp_path / method)
    make_adapter(tmp_path / "yarn", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    rope = open_checkpoint(str(tmp_path / "yarn")).position.rope
    save_file(load_file(file), file, metadata={"format": "pt", ROPE_KEY: rope.sha256})
    merge(tmp_path / "adapter", base=str(tmp_path / "yarn"), output_dir=tmp_path / "good")
    with pytest.raises(BadInput, match="another rope"):
        merge(tmp_path / "adapter", base=str(tmp_path / "linear"), output_dir=tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    merged = json.loads((tmp_path / "good" / "config.json").read_text())
    assert merged["rope_scaling"]["rope_type"] == "yarn"


def test_untouched_shards_are_linked(tmp_path):
    base = build_tiny(tmp_path / "base", shard="60KB")
    make_adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out")
    same = [
        p.name
        for p in base.glob("*.safetensors")
        if p.samefile(tmp_path / "out" / p.name) or p.stat().st_nlink > 1
    ]
    assert same


def test_nan_in_the_adapter_leaves_nothing(tmp_path, tiny_llama):
    make_adapter(tiny_llama, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name].view(-1)[3] = float("nan")
    save_file(tensors, file)
    with pytest.raises(CtxextError, match="NaN") as caught:
        merge(tmp_path / "adapter", base=str(tiny_llama), output_dir=tmp_path / "out")
    assert name in str(caught.value)
    shutil.rmtree(tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_float16_cannot_hold_leaves_nothing(tmp_path, tiny_llama):
    make_adapter(tiny_llama, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    for key in tensors:
        tensors[key] *= 1e3
    save_file(tensors, file)
    with pytest.raises(CtxextError, match="beyond float16"):
        merge(tmp_path / "adapter", base=str(tiny_llama), output_dir=tmp_path / "o", dtype="fp16")
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]
