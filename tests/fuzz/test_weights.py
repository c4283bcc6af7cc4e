"""Weight files, indexes and configs that somebody broke: the model as it is, or one sentence."""

import json
import shutil
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.tensors import check_tensors
from ctxext.checkpoints.weights.files import INDEX, read_weights
from support.checkpoints import build_tiny
from support.fuzzing import answers, as_text, broken, broken_bytes, fuzzed


@pytest.fixture(scope="module")
def model():
    """A sharded checkpoint, in memory where there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        yield build_tiny(Path(place) / "model", shard="50KB")


def parts(path):
    """The header of a safetensors file, and its data."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, data):
    text = as_text(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data


class Changed:
    """A file with other bytes for a while."""

    def __init__(self, path, content):
        self.path, self.content = path, content

    def __enter__(self):
        self.before = self.path.read_bytes()
        self.path.write_bytes(self.content)

    def __exit__(self, *_):
        self.path.write_bytes(self.before)


def shards(model):
    return sorted(model.glob("*.safetensors"))


@fuzzed
@given(data=st.data())
def test_broken_headers_of_shards(model, data):
    path = data.draw(st.sampled_from(shards(model)))
    header, tensors = parts(path)
    with Changed(path, joined(data.draw(broken(header)), tensors)):
        answers(check_tensors, Source(model, "model"))


@fuzzed
@given(data=st.data())
def test_broken_bytes_of_shards(model, data):
    path = data.draw(st.sampled_from(shards(model)))
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    head = data.draw(broken_bytes(whole[: 8 + length]))
    with Changed(path, head + whole[8 + length :]):
        answers(read_weights, model)


@fuzzed
@given(data=st.data())
def test_broken_indexes_of_shards(model, data):
    index = json.loads((model / INDEX).read_text())
    text = as_text(data.draw(broken(index)))
    with Changed(model / INDEX, text.encode("utf-8", "surrogatepass")):
        answers(check_tensors, Source(model, "model"))


@fuzzed
@given(data=st.data())
def test_the_config_that_the_weights_are_held_to(model, data):
    config = json.loads((model / "config.json").read_text())
    text = as_text(data.draw(broken(config)))
    with Changed(model / "config.json", text.encode("utf-8", "surrogatepass")):
        answers(check_tensors, Source(model, "model"))


def test_the_whole_checkpoint_is_read(model, tmp_path):
    whole = check_tensors(Source(shutil.copytree(model, tmp_path / "copy"), "copy"))
    assert len(whole.shards) > 1
