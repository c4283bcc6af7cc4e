"""Tokenizers that are damaged, foreign or missing: each is one sentence that names the file."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.tokenizer import check_fits, has_tokenizer, load_tokenizer
from ctxext.errors import BadInput


@pytest.fixture
def model(tmp_path, tiny_llama):
    return shutil.copytree(tiny_llama, tmp_path / "model")


def change(path, **keys):
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def says(model, *words):
    with pytest.raises(BadInput) as caught:
        load_tokenizer(Source(model, "model"))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_text(""),
        lambda path: path.write_text("null"),
        lambda path: change(path, version="9"),
        lambda path: change(path, model={"type": "BPE", "vocab": {"a": -1}, "merges": []}),
        lambda path: change(path, model={"type": "Nonsense"}),
        lambda path: change(path, decoder={"type": "Nonsense"}),
        lambda path: change(path, added_tokens=[{"id": "one"}]),
    ],
    ids=["cut", "empty", "null", "version", "ids", "model", "decoder", "added"],
)
def test_a_damaged_tokenizer_json_is_named(model, damage):
    damage(model / "tokenizer.json")
    says(model, "tokenizer.json cannot be used: ")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[]"),
        ("special_tokens_map.json", "nonsense"),
        ("added_tokens.json", '"x"'),
    ],
)
def test_so_are_the_files_beside_it(model, name, text):
    (model / name).write_text(text)
    says(model, name)


def test_a_folder_in_its_place(model):
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").mkdir()
    says(model, "tokenizer.json is not a regular file")


def test_a_folder_without_tokenizer_files_has_no_tokenizer(tmp_path, model):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(model / "config.json", bare)
    assert not has_tokenizer(bare)
    assert has_tokenizer(model)
    says(bare, "model has no tokenizer")


def test_what_else_the_config_says_is_not_the_tokenizer_s_business(model, tiny_llama):
    change(model / "config.json", num_labels=99_999_999_999, vocab_size="many")
    ids = load_tokenizer(Source(model, "model"))("def f(x):")["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(tiny_llama)("def f(x):")["input_ids"]


def test_special_tokens_may_be_more_than_there_are_rows(model):
    tokenizer = load_tokenizer(Source(model, "model"))
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    assert tokenizer.convert_tokens_to_ids("<pad>") == 256
    check_fits(tokenizer, 256, "model")
    with pytest.raises(BadInput, match="tokens up to 255, and the model has 255 embeddings"):
        check_fits(tokenizer, 255, "model")
