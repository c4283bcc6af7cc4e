"""Learned tables made longer, in every family that has one: files, and how transformers reads."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ctxext.api.extend import extend
from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.config.tables import TABLES
from ctxext.errors import BadInput
from support.not_rotary import build_not_rotary

# The laboratory's own decoder has its tests beside it.
FAMILIES = sorted(name for name in TABLES if name != "ctxext_lab")
OFTEN = ["gpt2", "gpt_neo", "opt", "roberta"]
EACH = [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return build_not_rotary(tmp_path_factory.mktemp("tables") / "gpt2", "gpt2")


def table_of(folder, model_type):
    (tensor,) = [
        value for name, value in load_file(folder / "model.safetensors").items()
        if name.endswith(TABLES[model_type].name)
    ]  # fmt: skip
    return tensor


def plain(folder):
    """Transformers' own reading of a folder, which misses nothing and has nothing left over."""
    model, said = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert {key: value for key, value in said.items() if value} == {}
    return model.eval()


def logits(folder, ids):
    with torch.no_grad():
        return plain(folder)(ids).logits


@pytest.mark.parametrize("model_type", EACH)
def test_every_family_with_a_table(tmp_path, model_type):
    base, offset = build_not_rotary(tmp_path / "base", model_type), TABLES[model_type].offset
    made = extend(str(base), target=512, output_dir=tmp_path / "long")
    assert made.method == "interpolate"
    assert (made.table.rows_before, made.table.rows_after) == (128 + offset, 512 + offset)
    # A second source: NumPy's own linear interpolation, column by column
    before = table_of(base, model_type).double().numpy()
    at = np.minimum(np.arange(512) * (128 / 512), 127)
    rows = np.stack([np.interp(at, np.arange(128), column) for column in before[offset:].T], 1)
    after = table_of(tmp_path / "long", model_type)
    assert torch.equal(after[:offset], table_of(base, model_type)[:offset])
    assert np.allclose(after[offset:].double().numpy(), rows, rtol=0, atol=1e-7)
    ids = torch.randint(10, 250, (1, 512), generator=torch.Generator().manual_seed(0))
    assert logits(tmp_path / "long", ids).isfinite().all()
    tiled = extend(str(base), method="tile", target=512, output_dir=tmp_path / "tile", check=True)
    assert tiled.checked_logit_change == 0
    after = table_of(tmp_path / "tile", model_type)
    assert torch.equal(after[offset + 384 :], after[offset : offset + 128])
    config = json.loads((tmp_path / "long" / "config.json").read_text())
    assert detect(config, where="config.json").window.current == 512


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_stays_and_grouped_rows_are_trained_ones(tmp_path, gpt2, dtype):
    base = shutil.copytree(gpt2, tmp_path / "base")
    tensors = {k: v.to(dtype) for k, v in load_file(base / "model.safetensors").items()}
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    made = extend(str(base), method="group", target=320, output_dir=tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert made.weights == "rewritten"
    assert {name: value.dtype for name, value in after.items()} == dict.fromkeys(tensors, dtype)
    rows = after.pop("transformer.wpe.weight")
    assert torch.equal(rows, tensors["transformer.wpe.weight"][torch.arange(320) * 128 // 320])
    assert all(torch.equal(value, tensors[name]) for name, value in after.items())


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_masks_of_old_files_are_left_out(tmp_path, gpt2, prefix):
    """As GPT-2 was published: no prefix, and in each layer the causal mask of its window."""
    base = shutil.copytree(gpt2, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors = {prefix + name.removeprefix("transformer."): each for name, each in tensors.items()}
    masks = {
        f"{prefix}h.{layer}.attn.bias": torch.ones(128, 128).tril()[None, None]
        for layer in range(8)
    }
    masks[f"{prefix}h.0.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors | masks, base / "model.safetensors", {"format": "pt"})
    made = extend(str(base), target=512, output_dir=tmp_path / "out")
    assert set(made.table.left_out) == set(masks)
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(tensors)
    ids = torch.arange(512)[None] % 200
    assert logits(tmp_path / "out", ids).isfinite().all()


def test_gpt_neo_s_masks_and_position_ids(tmp_path):
    base = build_not_rotary(tmp_path / "base", "gpt_neo")
    tensors = load_file(base / "model.safetensors")
    held = {
        "transformer.h.0.attn.attention.bias": torch.ones(1, 1, 128, 128).bool(),
        "transformer.h.0.attn.attention.masked_bias": torch.tensor(-1e9),
        "transformer.position_ids": torch.arange(128)[None],
    }
    save_file(tensors | held, base / "model.safetensors", {"format": "pt"})
    extend(str(base), target=512, output_dir=tmp_path / "out")
    assert set(load_file(tmp_path / "out" / "model.safetensors")) == set(tensors)
    plain(tmp_path / "out")


def test_of_several_shards_the_one_with_the_table_alone_is_written(tmp_path, gpt2):
    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(gpt2)
    model.save_pretrained(base, max_shard_size="200KB")
    index = json.loads((base / "model.safetensors.index.json").read_text())
    changed = index["weight_map"]["transformer.wpe.weight"]
    extend(str(base), target=512, output_dir=tmp_path / "out")
    for file in set(index["weight_map"].values()):
        same = (base / file).read_bytes() == (tmp_path / "out" / file).read_bytes()
        assert same == (file != changed)
    after = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert after["weight_map"] == index["weight_map"]
    grown = after["metadata"]["total_size"] - index["metadata"]["total_size"]
    assert grown == (512 - 128) * 64 * 4
    plain(tmp_path / "out")


def test_a_shard_of_masks_alone_is_gone(tmp_path, gpt2):
    base = shutil.copytree(gpt2, tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    shards = {
        "model-00001-of-00002.safetensors": tensors,
        "model-00002-of-00002.safetensors": {"h.0.attn.bias": torch.ones(1, 1, 128, 128)},
    }
    for file, held in shards.items():
        save_file(held, base / file, {"format": "pt"})
    where = {name: file for file, held in shards.items() for name in held}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    done = extend(str(base), target=512, output_dir=tmp_path / "out")
    assert "model-00002-of-00002.safetensors" not in done.files
    plain(tmp_path / "out")


def test_window_keys_of_the_family_are_all_raised(tmp_path, gpt2):
    base = shutil.copytree(gpt2, tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"n_ctx": 128}
    (base / "config.json").write_text(json.dumps(config))
    extend(str(base), target=512, output_dir=tmp_path / "out")
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (after["n_positions"], after["n_ctx"]) == (512, 512)
    tokenizer = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert tokenizer["model_max_length"] == 512


def test_a_shorter_trained_window_takes_the_first_rows(tmp_path, gpt2):
    extend(str(gpt2), method="tile", target=256, original_length=64, output_dir=tmp_path / "out")
    before, after = table_of(gpt2, "gpt2"), table_of(tmp_path / "out", "gpt2")
    assert torch.equal(after, before[:64].repeat(4, 1))


def test_a_table_is_not_extended_twice_nor_taken_back(tmp_path, gpt2):
    extend(str(gpt2), target=512, output_dir=tmp_path / "one")
    for arguments in ({"target": 1024}, {"method": "tile", "target": 512}, {"method": "none"}):
        with pytest.raises(BadInput, match="trained rows are not in it") as caught:
            extend(str(tmp_path / "one"), dry_run=True, **arguments)
        assert "made of" in caught.value.hint
    with pytest.raises(BadInput, match="gone"):
        extend(str(gpt2), method="none", dry_run=True)


def without_table(tensors):
    return {name: each for name, each in tensors.items() if "wpe" not in name}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_table, "0 tables of positions"),
        (lambda t: t | {"wpe.weight": t["transformer.wpe.weight"].clone()}, "2 tables"),
        (lambda t: t | {"transformer.wpe.weight": torch.ones(64, 64)}, "128 positions: 128 rows"),
        (lambda t: t | {"transformer.wpe.weight": torch.ones(128, 64).to(torch.int8)}, "dtype I8"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit_are_one_sentence(tmp_path, gpt2, change, words):
    base = shutil.copytree(gpt2, tmp_path / "base")
    tensors = change(load_file(base / "model.safetensors"))
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=words):
        extend(str(base), target=512, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoder_is_no_decoder(tmp_path):
    base = build_not_rotary(tmp_path / "base", "roberta")
    config = json.loads((base / "config.json").read_text()) | {"is_decoder": False}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="looks both ways"):
        extend(str(base), target=512, dry_run=True)


def test_what_is_no_table_of_rows_says_why():
    config = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    for model_type, words in [("reformer", "two axes"), ("imagegpt", "picture"), ("xlm", "both")]:
        from ctxext.checkpoints.config.extendable import not_by_this
        from ctxext.methods import METHODS

        told = {**config, "model_type": model_type, "max_position_embeddings": 128}
        position = detect(told, where="config.json")
        assert words in str(not_by_this(position, METHODS["interpolate"], "config.json"))
