"""What detect reads in a rope block is what transformers builds from it, for blocks of any kind."""

import copy
import json
import math

import pytest
import torch
from hypothesis import given, settings
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.utils import logging

from ctxext.api.inspect import inspect
from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.load import load_model
from ctxext.errors import BadInput
from support.fuzzing import CASES, fuzzed
from support.rope_configs import FAMILIES, built, configs


def at(rotary, length):
    """(inv_freq, attention factor) of a live module in a sequence of so many tokens."""
    cos, sin = rotary(torch.zeros(1, 2, 1), torch.tensor([[1, length - 1]]))
    assert cos.dtype == torch.float32
    return rotary.inv_freq.double().tolist(), float(torch.hypot(cos, sin)[0, 0, 0])


@pytest.fixture(autouse=True)
def quiet():
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity(verbosity)


@fuzzed
@given(config=configs())
def test_every_block_that_transformers_builds_is_read_alike(config):
    rotary = built(config)
    try:
        position = detect(copy.deepcopy(config), where="config.json")
    except BadInput as error:
        if rotary is not None:
            pytest.fail(f"transformers builds it, and we say: {error}")
        return
    rope, window = position.rope, position.window
    assert 0 < window.original <= window.current
    if rotary is None:
        pytest.fail(f"transformers cannot build this, and we read {rope.block} without a word")
    live, factor = at(rotary, window.current)
    assert len(live) == len(rope.inv_freq)
    for ours, theirs in zip(rope.inv_freq, live, strict=True):
        assert math.isclose(ours, theirs, rel_tol=rope.rounding), (rope.inv_freq, live)
    assert math.isclose(rope.attention_factor, factor, rel_tol=1e-6)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder with weights for each family; a rope changes none of them."""
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp(family)
        config = CONFIG_MAPPING[family](
            vocab_size=32, hidden_size=64, intermediate_size=32, num_hidden_layers=1, head_dim=16,
            num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, pad_token_id=0,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(folders[family])
    return folders


@settings(fuzzed, max_examples=max(20, CASES // 10))
@given(config=configs())
def test_what_is_read_is_loaded(weights, config):
    """eval-ppl and finetune begin so: a rope that they cannot take was refused at reading."""
    config = config | {"head_dim": 16, "bos_token_id": None, "eos_token_id": None}
    try:
        position = detect(config, where="config.json")
    except BadInput:
        return
    folder = weights[config["model_type"]]
    (folder / "config.json").write_text(json.dumps(config))
    assert inspect(str(folder)).position.rope.sha256 == position.rope.sha256
    model = load_model(Source(folder, "model", None), position)
    rotary = model.model.rotary_emb
    assert torch.equal(rotary.inv_freq, rotary.original_inv_freq)  # as if nobody had looked
    with torch.no_grad():
        assert model(torch.arange(8)[None]).logits.isfinite().all()


@pytest.mark.parametrize("change", [{"factor": 8.0}, {"rope_theta": 2e4}])
@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn", "longrope"])
def test_a_model_that_turns_otherwise_is_no_input(weights, rope_type, change):
    block = {"rope_type": rope_type, "factor": 4.0, "original_max_position_embeddings": 4096}
    block |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    config = {
        "model_type": "llama", "vocab_size": 32, "hidden_size": 64, "intermediate_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
        "pad_token_id": 0, "max_position_embeddings": 8192, "rope_theta": 1e4,
        "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    read = detect(config | {"rope_scaling": block}, where="config.json")
    other = detect(config | {"rope_scaling": block | change}, where="config.json")
    folder = weights["llama"]
    (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": block}))
    load_model(Source(folder, "model", None), read)
    with pytest.raises(BadInput, match="otherwise than transformers does"):
        load_model(Source(folder, "model", None), other)


def test_a_class_that_cannot_build_its_rope_is_no_input(weights):
    """Mixtral's leaves head_dim as it is, and multiplies None with a share under yarn."""
    config = json.loads((weights["mixtral"] / "config.json").read_text())
    block = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
    config |= {"model_type": "mixtral", "rope_scaling": block, "head_dim": None}
    config |= {"rope_theta": 1e6, "max_position_embeddings": 16384}
    config = {k: v for k, v in config.items() if k != "rope_parameters"}
    (weights["mixtral"] / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="transformers cannot make a model of"):
        load_model(Source(weights["mixtral"], "model", None), detect(config, where="config.json"))
