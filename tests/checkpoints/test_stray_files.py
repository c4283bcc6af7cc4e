"""What lies beside the weights: read as transformers reads it, and said."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge import make_adapter
from transformers import AutoModelForCausalLM

from ctxext.api.extend import extend
from ctxext.api.merge import merge
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.weights.files import read_weights, stale_weights
from ctxext.errors import BadInput
from support.checkpoints import build_tiny
from support.command import run_ctxext

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@pytest.fixture
def sharded(tmp_path):
    return build_tiny(tmp_path / "sharded", shard="60KB")


def numbers(folder):
    """All numbers of a checkpoint, read by the library of safetensors."""
    out = {}
    for file in read_weights(folder).shards:
        out |= load_file(folder / file)
    return out


def assert_as_transformers(folder):
    loaded = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    ours = numbers(folder)
    assert set(ours) == set(loaded)
    assert [name for name in ours if not torch.equal(ours[name], loaded[name])] == []


def test_a_single_file_counts_before_an_index(tmp_path, sharded):
    """As after `save_pretrained` of another model into a folder that held shards."""
    tensors = {name: tensor + 1 for name, tensor in numbers(sharded).items()}
    stale = sorted(p.name for p in sharded.glob("model-*"))
    save_file(tensors, sharded / SINGLE, metadata={"format": "pt"})
    assert_as_transformers(sharded)
    (warning,) = stale_weights(sharded)
    assert INDEX in warning or "more" in warning
    assert stale[0] in warning
    done = extend(str(sharded), target=512, output_dir=tmp_path / "out")
    assert warning in done.warnings
    assert sorted(p.name for p in (tmp_path / "out").glob("model*")) == [SINGLE]
    make_adapter(sharded, tmp_path / "adapter")
    merged = merge(tmp_path / "adapter", base=str(sharded), output_dir=tmp_path / "merged")
    assert warning in merged.warnings
    got = load_file(tmp_path / "merged" / SINGLE)
    assert torch.equal(got["model.norm.weight"], tensors["model.norm.weight"])


def test_shards_that_the_index_does_not_name_are_left_behind(tmp_path, sharded):
    """As after saving again with fewer shards."""
    stale = "model-00009-of-00009.safetensors"
    shutil.copyfile(next(sharded.glob("model-00001*")), sharded / stale)
    assert_as_transformers(sharded)
    (warning,) = open_checkpoint(str(sharded)).warnings
    assert stale in warning
    extend(str(sharded), target=512, output_dir=tmp_path / "out")
    assert not (tmp_path / "out" / stale).exists()


def test_an_adapter_beside_the_weights_is_not_applied(tmp_path, tiny_llama, book):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    make_adapter(tiny_llama, tmp_path / "adapter")
    shutil.copytree(tmp_path / "adapter", base, dirs_exist_ok=True)
    opened = open_checkpoint(str(base))
    (warning,) = opened.warnings
    assert "adapter_config.json" in warning
    model = load_model(opened.source, opened.position)
    assert not hasattr(model, "peft_config")
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    ids = torch.arange(32)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain(ids).logits)
    flags = ("--data", book, "--lengths", 64, "--tokens", 600, "--json")
    documents = []
    for folder in (base, tiny_llama):
        done = run_ctxext("eval-ppl", folder, *flags)
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout)["results"][0]["nll"])
        assert ("adapter_config.json" in done.stderr) is (folder == base)
    assert documents[0] == documents[1]
    done = extend(str(base), target=512, output_dir=tmp_path / "out")
    assert warning in done.warnings
    assert not list((tmp_path / "out").glob("adapter*"))


def test_the_two_in_one_folder_can_be_merged(tmp_path, tiny_llama):
    base = shutil.copytree(tiny_llama, tmp_path / "base")
    wrapped = make_adapter(tiny_llama, tmp_path / "adapter")
    shutil.copytree(tmp_path / "adapter", base, dirs_exist_ok=True)
    merge(base, base=str(base), output_dir=tmp_path / "out")
    assert not list((tmp_path / "out").glob("adapter*"))
    expected = wrapped.merge_and_unload().state_dict()
    got = load_file(tmp_path / "out" / SINGLE)
    assert all(torch.equal(got[name], expected[name]) for name in got)


@pytest.mark.parametrize("with_config", [False, True])
def test_an_adapter_alone_is_told_how_to_become_a_model(tmp_path, tiny_llama, with_config):
    make_adapter(tiny_llama, tmp_path / "adapter")
    if with_config:  # some trainers save the model's config beside it
        shutil.copyfile(tiny_llama / "config.json", tmp_path / "adapter" / "config.json")
    with pytest.raises(BadInput, match="is an adapter, not a whole model") as caught:
        extend(str(tmp_path / "adapter"), target=512, output_dir=tmp_path / "out")
    assert "ctxext merge" in caught.value.hint
