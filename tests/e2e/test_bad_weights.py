"""Broken, hostile and missing weights and adapters, through the real command line."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time

import pytest

from support.bad_inputs import (
    ADAPTER,
    Bomb,
    accepted,
    config_text,
    copy_of,
    extend_refused,
    f32,
    names,
    refused,
    shard,
    with_config,
)
from support.command import run_ctxext

MIB = 1024 * 1024
SECONDS, MEMORY = 10, 200 * MIB  # the machine of a test may be busy: seconds, not fractions


def measured(*arguments):
    """Run ctxext; returns its result, seconds and peak bytes (of that process alone)."""
    code = (
        "import resource, sys\n"
        "from ctxext.cli.main import main\n"
        "try: main()\n"
        "finally:\n"
        "    status = open('/proc/self/status').read()\n"  # ru_maxrss would count pytest itself
        "    sys.stderr.write('PEAK ' + status.split('VmHWM:')[1].split()[0])\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4096 * MIB, 4096 * MIB)),
    )
    seconds = time.monotonic() - began
    done.stderr, _, peak = done.stderr.rpartition("PEAK ")
    return done, seconds, int(peak) * 1024


def many(count, entry='{"dtype":"F32","shape":[],"data_offsets":[0,0]}'):
    return ("{" + ",".join(f'"{i:06x}":{entry}' for i in range(count)) + "}").encode()


A = {"a": f32(2), "b": f32(2, at=8)}
DATA = b"\0" * 16
SCALAR = json.dumps(f32()).encode()
HOSTILE_NAME = "a\nb\x1b[31mred/../c\u202e"
SHARDS = {
    "length-2**63": (shard({}, length=2**63), "its header claims 9223372036854775808"),
    "length-beyond-file": (shard(A, DATA, length=500), "its header claims 500 bytes"),
    "length-0": (shard({}, length=0), "its header claims 0 bytes"),
    "header-99-mb": (shard(b" " * 99_000_000), "larger than 16 MiB"),
    "header-16-mib-of-lists": (shard(b"[" + b"[]," * 5_500_000 + b"[]]"), "header"),
    "header-16-mib-of-strings": (shard(b"[" + b'"ab",' * 3_300_000 + b"0]"), "header"),
    "header-nested": (shard(b"[" * 1_000_000), "not a JSON object"),
    "not-json": (shard(b"{]"), "not a JSON object"),
    "not-utf-8": (shard(b'{"\xff":1}'), "not JSON"),
    "5000-digits": (shard(b'{"a":{"shape":[' + b"9" * 5000 + b"]}}"), "too much about 'a'"),
    "list": (shard(b"[]"), "not a JSON object"),
    "overlap": (shard({**A, "b": f32(2, at=4)}, DATA), "the bytes of 'b' overlap"),
    "gap": (shard({**A, "b": f32(2, at=12)}, DATA + b"\0" * 4), "the bytes of 'b' leave a gap"),
    "negative": (shard({"a": {**f32(2), "data_offsets": [-8, 0]}}), "not a whole number"),
    "reversed": (shard({"a": {**f32(2), "data_offsets": [8, 0]}}, DATA), "do not fill"),
    "span": (shard({"a": {**f32(2), "shape": [3]}}, b"\0" * 8), "do not fill its bytes"),
    "overflow": (shard({"a": {**f32(2), "shape": [2**62, 2**62]}}, DATA), "do not fill"),
    "bool": (shard({"a": {**f32(1), "shape": [True]}}, b"\0" * 4), "not a whole number"),
    "dtype": (shard({"a": {**f32(2), "dtype": "Q4_K"}}, b"\0" * 8), "unknown dtype 'Q4_K'"),
    "dtype-list": (shard({"a": {**f32(2), "dtype": ["F32"]}}, b"\0" * 8), "unknown dtype"),
    "no-shape": (shard({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, b"\0" * 8), "'a'"),
    "tensor-is-a-number": (shard({"a": 1}), "not a JSON object of tensors"),
    "metadata": (shard({"__metadata__": {"x": 1}}), "metadata"),
    "a-million-tensors": (shard(many(1_000_000)), "larger than 16 MiB"),
    "many-without-bytes": (shard(many(250_000)), "do not fill"),
    "two-million-numbers": (shard(many(1_400_000, "0")), "header"),
    "name-of-1-mb": (shard({"x" * MIB: {**f32(2), "dtype": "Q"}}, b"\0" * 8), "xxx…"),
    "same-name-twice": (shard(b'{"a":%s,"a":%s}' % (SCALAR, SCALAR)), "names 'a' twice"),
    "empty": (b"", "it has 0 bytes"),
    "truncated": (shard(A, DATA[:-1]), "need 16 bytes and it holds 15"),
    "trailing": (shard(A, DATA + b"x"), "need 16 bytes and it holds 17"),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARDS)
def test_corrupt_shards_are_refused(tmp_path, case):
    """Exit code 1, the shard's name, in bounded time and memory."""
    data, *words = SHARDS[case]
    model = with_config(tmp_path / "m", config_text())
    (model / "model.safetensors").write_bytes(data)
    done, seconds, peak = measured("extend", model, "--target", "512", "-o", tmp_path / "out")
    refused(done, 1, "corrupt shard model.safetensors: ", *words)
    assert seconds < SECONDS
    assert peak < MEMORY, f"{peak / MIB:.0f} MiB"
    assert names(tmp_path) == ["m"]


def test_hostile_names_are_escaped(tmp_path):
    model = with_config(tmp_path / "m", config_text())
    (model / "model.safetensors").write_bytes(shard({HOSTILE_NAME: {**f32(2), "dtype": "\x1b[2J"}}))
    done = run_ctxext("inspect", model)
    refused(done, 1, "x1b[31mred/../c", "x1b[2J")
    assert not {"\x1b", "\u202e"} & set(done.stdout + done.stderr)


def test_many_tensors_in_bounded_time(tmp_path):
    """As many as a header of 16 MiB can hold; nothing is wrong with them."""
    model = with_config(tmp_path / "m", config_text())
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    (model / "model.safetensors").write_bytes(shard(many(280_000, entry)))
    done, seconds, peak = measured("extend", model, "--target", "512", "-o", tmp_path / "out")
    accepted(done)
    assert seconds < 2 * SECONDS
    assert peak < MEMORY, f"{peak / MIB:.0f} MiB"


def test_names_with_slashes_are_only_names(tmp_path):
    model = with_config(tmp_path / "m", config_text())
    (model / "model.safetensors").write_bytes(shard({"../../x": f32(2)}, b"\0" * 8))
    accepted(run_ctxext("extend", model, "--target", "512", "-o", tmp_path / "out"))
    assert names(tmp_path) == ["m", "out"]


def test_a_git_lfs_pointer_is_named(tmp_path):
    model = with_config(tmp_path / "m", config_text())
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (model / "model.safetensors").write_text(pointer)
    extend_refused(model, 2, "model.safetensors is a Git LFS pointer", "run `git lfs pull`")


def indexed(folder, weight_map, shards, **metadata):
    """A checkpoint of several shards; `shards`: file name -> tensor names of two floats each."""
    model = with_config(folder, config_text())
    for file, tensors in shards.items():
        header = {name: f32(2, at=8 * i) for i, name in enumerate(tensors)}
        (model / file).write_bytes(shard(header, b"\0" * 8 * len(tensors)))
    index = {"metadata": metadata, "weight_map": weight_map}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    return model


ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEXES = {
    "missing-shard": ({"a": ONE, "b": TWO}, {ONE: ["a"]}, {}, "lacks shards", TWO),
    "tensor-not-in-shard": (
        {"a": ONE, "b": TWO, **{f"c{i}": TWO for i in range(7)}}, {ONE: ["a"], TWO: ["b"]}, {},
        f"shard {TWO} lacks tensors of the index: c0, c1, c2, c3, c4 and 2 more",
    ),
    "tensor-not-in-index": (
        {"a": ONE, "b": TWO}, {ONE: ["a", "x"], TWO: ["b"]}, {}, f"shard {ONE} has tensors", ": x"
    ),
    "total-size": (
        {"a": ONE, "b": TWO}, {ONE: ["a"], TWO: ["b"]}, {"total_size": 17},
        "total_size 17, and the shards hold 16 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INDEXES)
def test_index_and_shards_disagree(tmp_path, case):
    weight_map, shards, metadata, *words = INDEXES[case]
    extend_refused(indexed(tmp_path / "m", weight_map, shards, **metadata), 1, *words)


def test_a_stale_shard_is_left_behind(tmp_path):
    model = indexed(tmp_path / "m", {"a": ONE}, {ONE: ["a"], TWO: ["b"]})
    done = run_ctxext("extend", model, "--target", "512", "-o", tmp_path / "out")
    accepted(done, f"are not read, as in transformers: {TWO}")
    assert TWO not in names(tmp_path / "out")


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/passwd", "C:\\x", "..\\x", "a/../../x", "", ".", "..", "x\0y", "n" * 300],
)
def test_a_shard_outside_the_folder(tmp_path, name):
    model = indexed(tmp_path / "m", {"a": ONE, "b": name}, {ONE: ["a"]})
    extend_refused(model, 2, "model.safetensors.index.json names")


@pytest.mark.parametrize("kind", ["link", "loop", "fifo", "folder", "device"])
def test_a_shard_that_is_no_file(tmp_path, kind):
    for name in ("m-single", "m-index"):
        model = with_config(tmp_path / name, config_text())
        path = model / "model.safetensors"
        if name == "m-index":
            path = model / ONE
            text = json.dumps({"weight_map": {"a": ONE}})
            (model / "model.safetensors.index.json").write_text(text)
        (tmp_path / "secret").write_bytes(shard({"a": f32(2)}, b"\0" * 8))
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            where = {"link": tmp_path / "secret", "loop": path, "device": "/dev/zero"}
            path.symlink_to(where[kind])
        extend_refused(model, 2, path.name)


def test_side_files_that_lead_out_stay_behind(tmp_path, tiny_llama):
    """Else a checkpoint from elsewhere could have private files of this machine pushed."""
    model = copy_of(tiny_llama, tmp_path / "m")
    (tmp_path / "secret").write_text("token")
    (model / "notes.txt").symlink_to(tmp_path / "secret")
    (model / "LICENSE").write_text("ours")
    (model / "license.txt").symlink_to("LICENSE")
    done = run_ctxext("extend", model, "--target", "512", "-o", tmp_path / "out")
    accepted(done, "notes.txt", "leads out")
    assert "notes.txt" not in names(tmp_path / "out")
    assert (tmp_path / "out" / "license.txt").read_text() == "ours"


def test_links_of_the_hub_cache_are_fine(tmp_path, tiny_llama):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in tiny_llama.iterdir():
        shutil.copy(path, blobs / path.name)
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    accepted(run_ctxext("extend", snapshot, "--target", "512", "-o", tmp_path / "out"))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tiny_llama / "model.safetensors"
    ).read_bytes()
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_pickles_are_never_loaded(tmp_path, tiny_llama):
    sentinel = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(sentinel))
    model = with_config(tmp_path / "m", config_text())
    (model / "pytorch_model.bin").write_bytes(bomb)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps(ADAPTER))
    (adapter / "adapter_model.bin").write_bytes(bomb)
    before = names(tmp_path)
    for command, words in (
        (("extend", model, "--target", "512"), "pickles only"),
        (("merge", adapter, "--base", tiny_llama), "no adapter_model.safetensors"),
        (("eval-ppl", model, "--data", "builtin:python", "--lengths", "64"), "pickles only"),
    ):
        refused(run_ctxext(*command, "-o", tmp_path / "out"), 2, words)
    assert names(tmp_path) == before
    pickle.loads(bomb).close()
    assert sentinel.exists()  # the bomb is one


@pytest.mark.parametrize(
    ("name", "row", "value"),
    [
        ("layers.1.self_attn.q_proj", slice(None), float("nan")),
        ("embed_tokens", 101, float("nan")),  # the row of one letter
        ("layers.0.mlp.down_proj", 3, float("inf")),
    ],
)
def test_weights_that_are_no_numbers_are_not_trained(tmp_path, tiny_llama, book, name, row, value):
    from safetensors.torch import load_file, save_file

    model = copy_of(tiny_llama, tmp_path / "m")
    tensors = load_file(model / "model.safetensors")
    tensors[f"model.{name}.weight"][row] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    flags = ["--data", book, "--seq-length", 64, "--steps", 1, "-o", tmp_path / "out"]
    refused(run_ctxext("finetune", model, *flags), 1, "the weights of m give NaN")
