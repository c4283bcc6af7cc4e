"""Adapters on embeddings and heads: the merged checkpoint computes what the adapted model did.

What is right is the live model that peft trains, asked for its logits. peft's own merge is the
second source where a model is not tied; of a tied pair it makes one matrix, which is wrong.
"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge import make_adapter
from transformers import AutoModelForCausalLM

from ctxext.api.merge import merge
from ctxext.checkpoints.weights.adapter import read_adapter
from ctxext.errors import BadInput
from support.checkpoints import build_tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers"),
    pytest.mark.filterwarnings("ignore:.*ensure_weight_tying"),
]

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
IDS = torch.arange(96)[None] % 256
SETTINGS = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "both": {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    "head-dora": {"target_modules": ["lm_head"], "use_dora": True},
    "embedding-dora": {"target_modules": ["embed_tokens"], "use_dora": True},
    "embedding-rslora": {
        "target_modules": ["embed_tokens"], "use_rslora": True,
        "rank_pattern": {"embed_tokens": 7},
    },
    "saved-head": {"modules_to_save": ["lm_head"]},
    "saved-embedding": {"modules_to_save": ["embed_tokens"]},
    "saved-both": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "saved-embedding-head": {
        "target_modules": ["lm_head"], "modules_to_save": ["embed_tokens"],
    },
}  # fmt: skip
ONE_MATRIX = {
    "saved-embedding-tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "saved-head-tied": {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    "embedding-tied": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "both-tied": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A tied model, without and with its head stored once more."""
    root = tmp_path_factory.mktemp("tied")
    build_tiny(root / "plain", tied=True)
    shutil.copytree(root / "plain", root / "stored")
    file = root / "stored" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {HEAD: tensors[EMBEDDING].clone()}, file, metadata={"format": "pt"})
    return root


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def assert_computes(out, want):
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert torch.allclose(logits(loaded), want, atol=2e-5, rtol=1e-5)
    return loaded


@pytest.mark.parametrize("stored", [False, True], ids=["head-not-stored", "head-stored"])
@pytest.mark.parametrize("case", SETTINGS)
def test_a_tied_pair_that_was_trained_apart_is_two_matrices(tmp_path, bases, case, stored):
    base = bases / ("stored" if stored else "plain")
    wrapped = make_adapter(bases / "plain", tmp_path / "adapter", **SETTINGS[case])
    want = logits(wrapped)
    result = merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    assert any("no longer tied" in warning for warning in result.warnings)
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    loaded = assert_computes(tmp_path / "out", want)
    assert loaded.get_input_embeddings().weight is not loaded.get_output_embeddings().weight
    written = load_file(tmp_path / "out/model.safetensors")
    before = load_file(base / "model.safetensors")[EMBEDDING]
    untouched = {"head": EMBEDDING, "embedding": HEAD}.get(case)
    if untouched:
        assert torch.equal(written[untouched], before)


@pytest.mark.parametrize("stored", [False, True], ids=["head-not-stored", "head-stored"])
@pytest.mark.parametrize("case", ONE_MATRIX)
def test_a_pair_that_was_one_matrix_in_training_stays_one(tmp_path, bases, case, stored):
    base = bases / ("stored" if stored else "plain")
    wrapped = make_adapter(bases / "plain", tmp_path / "adapter", **ONE_MATRIX[case])
    if "embedding-tied" in case or case == "both-tied":  # the random numbers of the test part them
        with torch.no_grad():
            embedding = wrapped.base_model.model.model.embed_tokens
            head = wrapped.base_model.model.lm_head
            if hasattr(embedding, "lora_embedding_A"):
                head.lora_A["default"].weight.copy_(embedding.lora_embedding_B["default"].T)
                head.lora_B["default"].weight.copy_(embedding.lora_embedding_A["default"].T)
        wrapped.save_pretrained(tmp_path / "adapter")
    want = logits(wrapped)
    result = merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    assert not any("no longer tied" in warning for warning in result.warnings)
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is True
    assert_computes(tmp_path / "out", want)
    written = load_file(tmp_path / "out/model.safetensors")
    assert (HEAD in written) is stored
    if stored:
        assert torch.equal(written[HEAD], written[EMBEDDING])


@pytest.mark.parametrize("case", SETTINGS)
def test_of_an_untied_model_it_is_pefts_merge_bit_for_bit(tmp_path, case):
    base = build_tiny(tmp_path / "base", shard="60KB")
    wrapped = make_adapter(base, tmp_path / "adapter", **SETTINGS[case])
    merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    expected = wrapped.merge_and_unload().state_dict()
    got = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert [name for name in expected if not torch.equal(got[name], expected[name])] == []


def test_a_head_of_its_own_under_a_flag_that_says_tied(tmp_path, bases):
    """Two different matrices in the file: both are the base's, and the update is the head's."""
    base = shutil.copytree(bases / "stored", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    tensors[HEAD] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    make_adapter(bases / "plain", tmp_path / "adapter", target_modules=["lm_head"])
    adapter = read_adapter(tmp_path / "adapter")
    numbers = load_file(adapter.file)
    prefix = "base_model.model.lm_head."
    del numbers[f"{prefix}base_layer.weight"]  # which was another base's
    save_file(numbers, adapter.file, metadata={"format": "pt"})
    merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    got = load_file(tmp_path / "out/model.safetensors")
    a, b = numbers[f"{prefix}lora_A.weight"], numbers[f"{prefix}lora_B.weight"]
    assert torch.allclose(got[HEAD], tensors[HEAD] + 3.0 * b @ a, atol=1e-5)  # alpha 12, rank 4
    assert torch.equal(got[EMBEDDING], tensors[EMBEDDING])


def test_the_matrix_that_peft_saves_beside_lora_counts_where_it_is_another(tmp_path, bases):
    """As peft loads such an adapter: it overwrites the base's with the saved one."""
    base = shutil.copytree(bases / "plain", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    wrapped = make_adapter(base, tmp_path / "adapter", target_modules=["lm_head", "embed_tokens"])
    want = logits(wrapped)
    tensors[EMBEDDING][3] += 1  # edited since
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    result = merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    assert sum("which is not the base's" in warning for warning in result.warnings) == 2
    assert_computes(tmp_path / "out", want)


def test_single_rows_of_an_embedding_are_refused(tmp_path, bases):
    make_adapter(bases / "plain", tmp_path / "adapter", trainable_token_indices=[3, 5])
    with pytest.raises(BadInput, match=r"trainable_token_indices.*tied"):
        merge(tmp_path / "adapter", base=str(bases / "plain"), output_dir=tmp_path / "out")
