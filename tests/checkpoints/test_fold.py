"""An attention factor in the queries gives the logits of the one in the config."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ctxext.api.extend import extend
from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.weights.files import read_weights
from ctxext.checkpoints.weights.fold import plan_fold, write_folded
from ctxext.checkpoints.weights.queries import QUERIES, by_layer
from ctxext.errors import BadInput
from support.checkpoints import build_tiny
from support.command import run_ctxext
from support.tiny_models import tiny_config

WINDOW = 64
FAMILIES = {
    "llama": {}, "mistral": {"sliding_window": None}, "qwen2": {}, "qwen3": {}, "olmo2": {},
    "gemma3_text": {}, "olmo3": {},  # layers that slide keep their own rope
    "smollm3": {},  # layers without one
    "gpt_neox": {}, "stablelm": {}, "qwen3_next": {},  # a part of each head turns
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    "persimmon": {}, "qwen3_moe": {}, "granite": {"attention_multiplier": 0.25},
}  # fmt: skip


def random_checkpoint(folder, config):
    """A checkpoint of any family whose norms and biases are far from what they begin with."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(noise * 0.15 if parameter.ndim > 1 else parameter + noise * 0.2)
    model.save_pretrained(folder)
    return folder


def logits(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(3, 60, (1, 2 * WINDOW), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_factor_in_the_config(tmp_path, family):
    config = tiny_config(family, max_position_embeddings=WINDOW, **FAMILIES[family])
    base = str(random_checkpoint(tmp_path / "base", config))
    factor = {"attention_factor": 1.9}
    said, folded = tmp_path / "said", tmp_path / "folded"
    extend(base, target=256, parameters=factor, output_dir=said)
    result = extend(
        base, target=256, parameters=factor, output_dir=folded, fold_attention_factor=True
    )
    extend(base, target=256, output_dir=tmp_path / "default")
    wanted, got = logits(said), logits(folded)
    assert (got - wanted).abs().max() < 2e-4 * wanted.abs().max()
    assert (logits(tmp_path / "default") - wanted).abs().max() > 0.02 * wanted.abs().max()
    assert "attention_factor" not in (folded / "config.json").read_text()
    assert not any("ignored by" in warning for warning in result.warnings)
    assert result.weights == "rewritten"
    before, after = (load_file(each / "model.safetensors") for each in (said, folded))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(QUERIES[family].name in name for name in changed)


def test_phi3_by_its_longrope(tmp_path):
    """Queries, keys and values in one tensor; its class takes no other scaling."""
    block = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8}
    block |= {"long_factor": [2.0] * 8, "factor": 4.0, "original_max_position_embeddings": WINDOW}
    config = tiny_config("phi3", max_position_embeddings=256, rope_parameters=block)
    config.original_max_position_embeddings = WINDOW
    base, folded = random_checkpoint(tmp_path / "base", config), tmp_path / "folded"
    shutil.copytree(base, folded)
    document = json.loads((base / "config.json").read_text())
    position = detect(document, where="config.json")
    document["rope_parameters"]["attention_factor"] = 1.9
    weights = read_weights(folded)
    write_folded(
        weights,
        tmp_path / "new",
        plan_fold(weights, position, 1.9 / position.rope.attention_factor),
        "copy",
    )
    (tmp_path / "new" / "model.safetensors").replace(folded / "model.safetensors")
    plain = logits(base)
    (base / "config.json").write_text(json.dumps(document))
    wanted = logits(base)
    assert (logits(folded) - wanted).abs().max() < 2e-4 * wanted.abs().max()
    assert (plain - wanted).abs().max() > 0.02 * wanted.abs().max()


def test_other_shards_are_linked_and_rounding_is_said(tmp_path):
    base = build_tiny(tmp_path / "base", shard="30KB", dtype="bfloat16")
    done = run_ctxext(
        "extend", base, "--target", "1k", "--set", "attention_factor=1.5",
        "--fold-attention-factor", "-o", tmp_path / "out", "--json",
    )  # fmt: skip
    document = json.loads(done.stdout)
    assert document["weights"] == "rewritten"
    assert document["folded_attention_factor"] == pytest.approx(1.5 / 1.2079441542)
    assert any("rounding the queries to their dtype cost" in w for w in document["warnings"])
    linked = []
    for shard in base.glob("*.safetensors"):
        new, queries = tmp_path / "out" / shard.name, False
        for name, tensor in load_file(shard).items():
            now = load_file(new)[name]
            assert now.dtype == tensor.dtype
            if "q_proj" in name:
                queries = True
                scale = (now.float() / tensor.float())[tensor != 0]
                assert scale.mean() == pytest.approx((1.5 / 1.2079441542) ** 2, rel=1e-3)
            else:
                assert torch.equal(now, tensor)
        if not queries:
            linked.append(new.read_bytes() == shard.read_bytes() and new.stat().st_nlink > 1)
    assert linked
    assert all(linked) or all(each.stat().st_nlink == 1 for each in base.glob("*"))  # reflinks
    index = "model.safetensors.index.json"
    assert (tmp_path / "out" / index).read_bytes() == (base / index).read_bytes()


def test_once_and_what_is_made_of_it_knows(tmp_path, tiny_llama):
    from ctxext.api.merge import merge
    from ctxext.api.stage_run import run_record
    from ctxext.checkpoints.opened import open_checkpoint

    folded, merged = tmp_path / "folded", tmp_path / "merged"
    extend(
        str(tiny_llama), target=512, parameters={"attention_factor": 1.0},
        output_dir=folded, fold_attention_factor=True,
    )  # fmt: skip
    rest = json.loads((folded / "ctxext.json").read_text())["folded_attention_factor"]
    assert rest == pytest.approx(1 / 1.1386294361)
    assert run_record("stage", open_checkpoint(str(folded)), {})["folded_attention_factor"] == rest
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    weights = {key.format("A"): torch.ones(2, 64), key.format("B"): torch.ones(64, 2)}
    save_file(weights, adapter / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    merge(adapter, base=str(folded), output_dir=merged)
    name = "model.layers.0.self_attn.q_proj.weight"
    update = (
        load_file(merged / "model.safetensors")[name]
        - load_file(folded / "model.safetensors")[name]
    )
    assert update == pytest.approx(torch.full((64, 64), 2.0), abs=1e-5)
    for once in (folded, merged):
        for again in (False, True):
            with pytest.raises(BadInput, match=r"0\.8782.. folded into its weights"):
                extend(
                    str(once), target=1024, dry_run=True, parameters={"attention_factor": 1.5},
                    fold_attention_factor=again,
                )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes", "wanted", "message"),
    [
        ("llama", {}, {}, "readers of yarn compute the attention factor 1.13863 by themselves"),
        ("llama", {}, {"method": "linear"}, "readers of linear compute the attention factor 1 by"),
        ("llama", {}, {"target": WINDOW}, "the window stays, and so does the rope"),
        ("deepseek_v3", {}, {"parameters": {"attention_factor": 1.5}}, "stands in mscale_all_dim"),
        # Its norm comes after the turning, so that no factor reaches the logits.
        (
            "hunyuan_v1_dense",
            {"head_dim": 16},
            {"parameters": {"attention_factor": 1.5}},
            "not known to ctxext",
        ),
        (
            "cohere",
            {"use_qk_norm": True},
            {"parameters": {"attention_factor": 1.5}},
            "norms the queries",
        ),
    ],
)
def test_what_is_not_folded_says_why(tmp_path, family, changes, wanted, message):
    config = tiny_config(family, max_position_embeddings=WINDOW, num_hidden_layers=2, **changes)
    base = random_checkpoint(tmp_path / "base", config)
    with pytest.raises(BadInput, match=message):
        extend(
            str(base), output_dir=tmp_path / "out", fold_attention_factor=True,
            **{"target": 256} | wanted,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_quantised_and_foreign_tensors_are_refused(tmp_path, tiny_llama):
    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    wanted = {"target": 512, "parameters": {"attention_factor": 1.5}, "fold_attention_factor": True}
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors = load_file(base / "model.safetensors")
    for other, message in (
        (tensors[name].to(torch.float8_e4m3fn), r"q_proj\.weight is quantised \(F8_E4M3\)"),
        (tensors[name][:50].contiguous(), r"shape \[50, 64\], which does not fit heads of 16"),
        (None, r"layer 1 has no self_attn\.q_proj\.weight"),
    ):
        changed = {
            key: value for key, value in {**tensors, name: other}.items() if value is not None
        }
        save_file(changed, base / "model.safetensors", {"format": "pt"})
        with pytest.raises(BadInput, match=message):
            extend(str(base), dry_run=True, **wanted)


def test_every_family_of_the_table_is_one_that_turns():
    from ctxext.checkpoints.config import families

    assert set(QUERIES) <= families.KNOWN - families.LATENT


def test_layers_are_those_of_the_part_that_reads_text():
    q = "self_attn.q_proj.weight"
    for text in (
        f"model.layers.3.{q}", f"model.language_model.layers.3.{q}",
        f"language_model.model.layers.3.{q}", f"model.text_model.layers.3.{q}",
    ):  # fmt: skip
        assert list(by_layer([text])) == [(3, q, text)]
    for other in (
        f"model.vision_tower.encoder.layers.3.{q}", f"vision_model.model.layers.3.{q}",
        f"audio_tower.layers.3.{q}", f"model.mtp.layers.3.{q}", "model.norm.weight",
    ):  # fmt: skip
        assert list(by_layer([other])) == []
