"""The rope in a GGUF file: what is written, and that nothing else moves. llama.cpp runs it in
`tests/e2e/test_llama_cpp.py`."""

import json
import sys

import numpy as np
import pytest

from ctxext.api.extend import extend
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput
from support.command import run_ctxext
from support.gguf_models import read_gguf, write_llama_gguf

gguf = pytest.importorskip("gguf", reason="gguf-py is not installed: pip install -e '.[dev]'")
FACTORS = "rope_freqs.weight"


@pytest.fixture
def converted(tmp_path, tiny_llama):
    return write_llama_gguf(tiny_llama, tmp_path / "model.gguf")


def factors_in(path):
    return np.frombuffer(read_gguf(path)[1][FACTORS][1], np.float32)


@pytest.mark.parametrize("method", ["llama3", "yarn", "linear", "ntk"])
def test_factors_divide_the_base_into_the_frequencies(tmp_path, tiny_llama, converted, method):
    before, tensors = read_gguf(converted)
    out = tmp_path / "out"
    result = extend(str(tiny_llama), method=method, target=1024, output_dir=out, gguf=converted)
    after, now = read_gguf(converted)
    rope = open_checkpoint(str(out)).position.rope
    theta = after["llama.rope.freq_base"]
    plain = np.array([theta ** (-2 * i / 16) for i in range(8)])
    assert plain / factors_in(converted) == pytest.approx(rope.inv_freq, rel=1e-6)
    assert after["llama.context_length"] == 1024
    assert after["llama.rope.scaling.type"] == "none"
    factor = after.get("llama.rope.scaling.attn_factor", 1.0)
    assert factor == pytest.approx(rope.attention_factor)
    ours = {"llama.context_length", "llama.rope.freq_base", "llama.rope.scaling.type"}
    ours.add("llama.rope.scaling.attn_factor")
    assert {k: v for k, v in after.items() if k not in ours} == {
        k: v for k, v in before.items() if k not in ours
    }
    assert {name: data for name, data in now.items() if name != FACTORS} == tensors
    assert result.gguf.factors == pytest.approx(factors_in(converted))
    assert [p.name for p in tmp_path.iterdir() if p.name != "out"] == ["model.gguf"]


def test_what_the_converter_wrote_of_a_scaling_goes(tmp_path, tiny_llama):
    """Left there, llama.cpp would scale twice."""
    keys = [
        ("llama.rope.scaling.type", "yarn"), ("llama.rope.scaling.factor", 8.0),
        ("llama.rope.scaling.original_context_length", 128),
        ("llama.rope.scaling.yarn_attn_factor", 1.3), ("llama.attention.temperature", 0.5),
    ]  # fmt: skip
    path = write_llama_gguf(
        tiny_llama, tmp_path / "a.gguf", keys=keys, tensors=[(FACTORS, [3.0] * 8)]
    )
    _, tensors = read_gguf(path)
    out = tmp_path / "out"
    extend(str(tiny_llama), target=1024, parameters={"attention_factor": 1.5}, output_dir=out)
    result = extend(str(out), gguf=path)  # the rope that it has
    after, now = read_gguf(path)
    scaling = {key: value for key, value in after.items() if "scaling" in key}
    assert scaling == {
        "llama.rope.scaling.type": "none", "llama.rope.scaling.attn_factor": 1.5,
    }  # fmt: skip
    assert after["llama.attention.temperature"] == 0.5
    assert list(now) == list(tensors)  # the tensor was there, and is in its place
    assert factors_in(path) == pytest.approx(result.gguf.factors)
    assert result.gguf.changed["llama.rope.scaling.factor"] == (8.0, None)
    assert (result.output_dir, result.method, result.window.target) == (None, "yarn", 1024)


def test_the_same_twice_and_a_dry_run_leaves_the_file(tmp_path, tiny_llama, converted):
    before = converted.read_bytes()
    arguments = ["extend", tiny_llama, "--method", "llama3", "--target", "1k", "--gguf", converted]
    dry = run_ctxext(*arguments, "--dry-run", "--json")
    assert json.loads(dry.stdout)["gguf"]["changed"]["llama.context_length"] == [128, 1024]
    assert converted.read_bytes() == before
    done = run_ctxext(*arguments)
    assert "8 pairs turn 1 to 8 times more slowly" in done.stdout
    once = converted.read_bytes()
    assert once != before
    assert run_ctxext(*arguments).returncode == 0
    assert converted.read_bytes() == once


def test_the_data_stays_where_it_is(tmp_path, tiny_llama, converted):
    old = gguf.GGUFReader(converted)
    places = [(t.name, t.data_offset - old.data_offset) for t in old.tensors]
    extend(str(tiny_llama), method="llama3", target=1024, gguf=converted)
    new = gguf.GGUFReader(converted)
    assert [(t.name, t.data_offset - new.data_offset) for t in new.tensors][:-1] == places
    assert new.tensors[-1].data_offset % 32 == 0
    assert len(converted.read_bytes()) % 32 == new.data_offset % 32 == 0


def test_long_factors_are_those_of_every_length(tmp_path, tiny_llama, converted):
    config = json.loads((tiny_llama / "config.json").read_text())
    block = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.5] * 7 + [8.0]}
    block |= {"factor": 8.0, "original_max_position_embeddings": 128, "attention_factor": 1.0}
    scaled = tmp_path / "scaled"
    scaled.mkdir()
    for file in tiny_llama.iterdir():
        (scaled / file.name).write_bytes(file.read_bytes())
    config |= {"rope_scaling": block, "rope_parameters": {**block, "rope_theta": 10_000.0}}
    config |= {"max_position_embeddings": 1024, "original_max_position_embeddings": 128}
    (scaled / "config.json").write_text(json.dumps(config | {"rope_theta": 10_000.0}))
    result = extend(str(scaled), gguf=converted)
    assert factors_in(converted) == pytest.approx([1.5] * 7 + [8.0])
    assert any("texts of every length by the long factors" in w for w in result.warnings)


@pytest.mark.parametrize(
    ("change", "wanted", "message"),
    [
        ({"architecture": "qwen2"}, {}, "of architecture qwen2, for which llama.cpp reads no"),
        ({"architecture": "granite"}, {}, "of architecture granite, and the checkpoint is of"),
        ({"keys": [("llama.rope.dimension_count", 8)]}, {}, "turns 8 dims of a head, and .* 16"),
        ({"keys": [("llama.block_count", 3)]}, {}, "has 3 layers"),
        ({"keys": [("split.count", 2)]}, {}, "one part of a split model"),
        ({"tensors": [(FACTORS, [1.0] * 4)]}, {}, "is not float32 of one for each pair"),
        ({}, {"method": "dynamic"}, "dynamic scaling follows the length"),
        ({}, {"fold_attention_factor": True}, "--gguf has a key for the factor"),
        ({}, {"target": None}, "is not scaled, so there is nothing to write"),
    ],
)  # fmt: skip
def test_another_file_is_refused_and_stays(tmp_path, tiny_llama, change, wanted, message):
    path = write_llama_gguf(tiny_llama, tmp_path / "model.gguf", **change)
    before = path.read_bytes()
    with pytest.raises(BadInput, match=message):
        extend(str(tiny_llama), gguf=path, **{"target": 1024} | wanted)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.gguf"]


def test_no_gguf_file_is_named(tmp_path, tiny_llama, converted):
    whole = converted.read_bytes()
    for name, content in (
        ("text", b"not a model"), ("short", whole[:3000]), ("empty", b""),
        ("counts", whole[:8] + b"\xff" * 16 + whole[24:]), ("old", whole[:4] + b"\1" + whole[5:]),
    ):  # fmt: skip
        broken = tmp_path / f"{name}.gguf"
        broken.write_bytes(content)
        with pytest.raises(BadInput, match=rf"{name}\.gguf cannot be read as a GGUF file"):
            extend(str(tiny_llama), target=1024, gguf=broken)
    (tmp_path / "link.gguf").symlink_to(converted)
    for name, message in (
        ("nowhere.gguf", "does not exist"), ("link.gguf", "not a regular file"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=message):
            extend(str(tiny_llama), target=1024, gguf=tmp_path / name)


def test_without_gguf_py_there_is_one_sentence(tiny_llama, converted, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInput, match="--gguf needs gguf-py, which is not installed") as caught:
        extend(str(tiny_llama), target=1024, gguf=converted)
    assert caught.value.hint == "pip install 'ctxext[gguf]'"
    assert caught.value.argument == "gguf"
