"""Tokenizer files that somebody broke: a tokenizer that works, or one sentence."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.tokenizer import check_fits, load_tokenizer, tokenizer_errors
from support.fuzzing import answers, as_text, broken, broken_bytes, fuzzed

TEXT = "def f(x):\n    return 'naïve' + x  # 漢字\n"
WORDS = {"[UNK]": 0, "[PAD]": 1, "def": 2, "f": 3, "(": 4, "x": 5, "##x": 6, "▁": 7, "de": 8}
MODELS = {
    "WordPiece": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": WORDS},
    "WordLevel": {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"},
    "Unigram": {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
                "vocab": [["<unk>", 0.0], ["▁", -1.0], ["d", -2.0], ["ef", -2.5], ["x", -3.0]]},
}  # fmt: skip
BESIDE = {
    "added_tokens": [
        {"id": 9, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True},
    ],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]},
    "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+|\\w+"}, "behavior": "Isolated",
                      "invert": False},
    "post_processor": {"type": "TemplateProcessing",
                       "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                  {"Sequence": {"id": "A", "type_id": 0}}],
                       "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
                       "special_tokens": {"<s>": {"id": "<s>", "ids": [9], "tokens": ["<s>"]}}},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
}  # fmt: skip
SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 128, "unk_token": "[UNK]",
    "added_tokens_decoder": {"9": {"content": "<s>", "special": True}}, "bos_token": "<s>",
    "extra_special_tokens": {}, "chat_template": "{{ messages }}", "add_prefix_space": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder():
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        yield Path(place) / "model"


@pytest.fixture(scope="module")
def files(shipped):
    """Whole tokenizer.json files: bytes as BPE, and small ones of each other model."""
    whole = {"BPE": json.loads((shipped / "tokenizer.json").read_text())}
    for name, model in MODELS.items():
        whole[name] = {**whole["BPE"], **BESIDE, "model": model}
    return whole


def use(folder, tokenizer, settings):
    """What every command does with a tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "tokenizer_config.json").write_bytes(settings)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    loaded = load_tokenizer(Source(folder, "model"))
    check_fits(loaded, 2**31, "model")
    with tokenizer_errors("model"):
        loaded(TEXT, add_special_tokens=False, verbose=False)
        return list(loaded(TEXT, verbose=False)["input_ids"])


def written(document):
    return as_text(document).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("kind", ["BPE", *MODELS])
def test_whole_tokenizers_work(folder, files, kind):
    assert use(folder, written(files[kind]), written(SETTINGS))


@fuzzed
@given(data=st.data())
def test_broken_values_of_tokenizer_json(folder, files, data):
    whole = files[data.draw(st.sampled_from(sorted(files)))]
    document = data.draw(broken(whole))
    answers(use, folder, written(document), written(SETTINGS))


@fuzzed
@given(data=st.data())
def test_broken_bytes_of_tokenizer_json(folder, files, data):
    whole = written(files[data.draw(st.sampled_from(sorted(files)))])
    answers(use, folder, data.draw(broken_bytes(whole)), written(SETTINGS))


@fuzzed
@given(data=st.data())
def test_broken_values_of_tokenizer_config(folder, files, data):
    settings = data.draw(broken(SETTINGS))
    answers(use, folder, written(files["WordPiece"]), written(settings))
