"""`merge --verify` finds what is wrong with an output, and is quiet about what is right."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_merge import make_adapter

from ctxext.api.merge import merge
from ctxext.checkpoints.weights import merge as merge_module
from ctxext.checkpoints.weights.adapter import read_adapter
from ctxext.checkpoints.weights.files import read_weights
from ctxext.checkpoints.weights.merge_check import verify_merge
from ctxext.errors import CtxextError
from support.checkpoints import build_tiny
from support.command import run_ctxext

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """A sharded bfloat16 base, a DoRA adapter with norms, and what they make together."""
    root = tmp_path_factory.mktemp("merged")
    base = build_tiny(root / "base", shard="60KB", dtype="bfloat16")
    make_adapter(base, root / "adapter", use_dora=True, modules_to_save=["norm"])
    merge(root / "adapter", base=str(base), output_dir=root / "out")
    return read_weights(base), read_adapter(root / "adapter"), root / "out"


def copy_with(merged, tmp_path, change):
    """The output with one tensor changed; the sample is large enough to hold all."""
    base, adapter, out = merged
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    for file in copy.glob("*.safetensors"):
        tensors = load_file(file)
        if change(tensors):
            file.unlink()  # a linked shard is the base's own
            save_file(tensors, file, metadata={"format": "pt"})
    return lambda: verify_merge(base, adapter, copy, sample=1000)


def test_the_right_output_passes(merged, tmp_path):
    assert copy_with(merged, tmp_path, lambda tensors: False)() == len(merged[0].tensors)


@pytest.mark.parametrize("name", [Q, "model.norm.weight", "model.embed_tokens.weight"])
def test_one_number_two_roundings_away_is_found(merged, tmp_path, name):
    def change(tensors):
        if name not in tensors:
            return False
        flat = tensors[name].view(torch.int16).view(-1)
        at = int(tensors[name].float().abs().argmax())
        flat[at] += 2  # two bfloat16 numbers further
        return True

    with pytest.raises(CtxextError, match=name.replace(".", r"\.")):
        copy_with(merged, tmp_path, change)()


def test_another_dtype_and_a_lost_shard_are_found(merged, tmp_path):
    def widen(tensors):
        if Q in tensors:
            tensors[Q] = tensors[Q].float()
        return Q in tensors

    check = copy_with(merged, tmp_path, widen)
    with pytest.raises(CtxextError, match="total_size"):  # the index tells first
        check()
    index = tmp_path / "copy" / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    del document["metadata"]["total_size"]
    index.write_text(json.dumps(document))
    with pytest.raises(CtxextError, match="F32"):
        check()
    next(iter((tmp_path / "copy").glob("*.safetensors"))).unlink()
    with pytest.raises(CtxextError, match="lacks shards"):
        check()


@pytest.mark.parametrize("fault", ["scale", "magnitude"])
def test_a_merge_gone_wrong_leaves_nothing(tmp_path, monkeypatch, fault):
    """The arithmetic itself is broken here: --verify does not share it, so it is seen."""
    base = build_tiny(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter", use_dora=True)
    right = merge_module.add_low_rank

    def wrong(weight, a, b, scale, *, magnitude, transposed):
        changed = {"scale": scale * 1.001, "magnitude": scale}[fault]
        m = magnitude * 1.001 if fault == "magnitude" else magnitude
        return right(weight, a, b, changed, magnitude=m, transposed=transposed)

    monkeypatch.setattr(merge_module, "add_low_rank", wrong)
    with pytest.raises(CtxextError, match="is not base"):
        merge(tmp_path / "adapter", base=str(base), output_dir=tmp_path / "out", verify=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter", "base"]


def test_the_flag(tmp_path):
    base = build_tiny(tmp_path / "base", dtype="bfloat16")
    make_adapter(base, tmp_path / "adapter")
    arguments = ("merge", tmp_path / "adapter", "--base", base, "--verify", "-o", tmp_path / "out")
    done = run_ctxext(*arguments)
    assert done.returncode == 0, done.stderr
    assert "verified: 21 of 21 tensors" in done.stdout
    assert "of what training changed" in done.stdout
    document = json.loads(run_ctxext(*arguments, "--overwrite", "--json").stdout)
    assert document["verified"] == 21
    assert set(document["rounding"]) == {"relative", "of_update", "tensor"}
