"""Side files and tokenizers that somebody broke: carried, patched and judged, or one sentence."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from ctxext.api.inspect import tokenizer_suspicions
from ctxext.checkpoints.weights.carry import (
    carry_side_files,
    patch_tokenizer,
    raise_generation_length,
)
from ctxext.checkpoints.weights.front_matter import read_front_matter
from support.fuzzing import answers, as_text, broken, broken_bytes, fuzzed

TOKENIZER = {
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": 256, "strategy": "LongestFirst",
                   "stride": 0},
    "padding": {"strategy": {"Fixed": 256}, "direction": "Right", "pad_id": 0, "pad_token": "x"},
    "added_tokens": [],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
}  # fmt: skip
FILES = {
    "tokenizer.json": TOKENIZER,
    "tokenizer_config.json": {"model_max_length": 128, "tokenizer_class": "TokenizersBackend",
                              "chat_template": "{{ messages }}", "extra": [1, {"a": None}]},
    "generation_config.json": {"max_length": 128, "eos_token_id": [1, 2]},
}  # fmt: skip
README = b"---\nlicense: mit\nlanguage:\n- en\n- 'no'\nbase_model: a/b\ntags: [x]\n---\n# Model\n"


@pytest.fixture(scope="module")
def folders():
    """A checkpoint and an output in memory, where there is such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        yield Path(place) / "base", Path(place) / "out"


def begin(folders):
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    return folders


def mend(source, out):
    """What extend does with the files beside the weights."""
    warnings = []
    carry_side_files(source, out, warnings)
    changed = patch_tokenizer(source, out, 1024, warnings)
    changed |= raise_generation_length(source, out, 128, 1024)
    tokenizer_suspicions(source, 128)
    assert all(isinstance(w, str) and "\n" not in w for w in warnings)
    return changed


@fuzzed
@given(data=st.data())
def test_broken_tokenizer_files_beside_a_checkpoint(folders, data):
    source, out = begin(folders)
    name = data.draw(st.sampled_from(sorted(FILES)))
    for each, document in FILES.items():
        (source / each).write_text(as_text(document))
    if data.draw(st.booleans()):
        (source / name).write_text(as_text(data.draw(broken(FILES[name]))))
    else:
        (source / name).write_bytes(data.draw(broken_bytes(as_text(FILES[name]).encode())))
    changed, _ = answers(mend, source, out)
    if changed is not None:  # what was written is JSON still, and cuts nothing short
        for each in FILES:
            json.loads((out / each).read_bytes().decode("utf-8-sig"))
        if "tokenizer.truncation.max_length" in changed:
            cut = json.loads((out / "tokenizer.json").read_text())["truncation"]["max_length"]
            assert cut == 1024


@fuzzed
@given(text=broken_bytes(README))
def test_front_matter_of_a_readme(folders, text):
    source, _ = begin(folders)
    (source / "README.md").write_bytes(text)
    card, _ = answers(read_front_matter, source)
    texts = [*card.license.values(), *card.language, *card.tags, card.base_model or ""]
    assert all(isinstance(text, str) and "\n" not in text for text in texts)


NAMES = st.one_of(
    st.sampled_from(["tokenizer.json", "additional_chat_templates", "tokenizer", "LICENSE",
                     "original", "x.bin", ".hidden", "a\nb.txt", "\x1b[31m.json", "-rf"]),
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]),
            min_size=1, max_size=20).filter(lambda name: name not in (".", "..")),
)  # fmt: skip
KINDS = st.sampled_from(["file", "folder", "link in", "link out", "dead link", "loop", "pipe"])


def make(path, kind):
    import os

    if path.exists() or path.is_symlink():
        return
    match kind:
        case "file":
            path.write_bytes(b"x")
        case "folder":
            path.mkdir()
        case "link in":
            path.symlink_to("config.json")
        case "link out":
            path.symlink_to("/etc/hostname")
        case "dead link":
            path.symlink_to("nothing")
        case "loop":
            path.symlink_to(path.name)
        case "pipe":
            os.mkfifo(path)


@fuzzed
@given(
    entries=st.lists(st.tuples(NAMES, KINDS), max_size=6),
    below=st.lists(st.tuples(NAMES, KINDS), max_size=3),
)
def test_folders_of_anything(folders, entries, below):
    source, out = begin(folders)
    (source / "config.json").write_text("{}")
    for name, kind in entries:
        make(source / name, kind)
    inner = source / "additional_chat_templates"
    if not inner.exists() and not inner.is_symlink():
        inner.mkdir()
    if inner.is_dir() and not inner.is_symlink():
        for name, kind in below:
            make(inner / name, kind)
    warnings = []
    answers(carry_side_files, source, out, warnings)
    assert all("\n" not in w for w in warnings)
    for path in out.rglob("*"):  # nothing but what lay inside, and no link
        assert not path.is_symlink()
        assert path.is_dir() or path.read_bytes() in (b"x", b"{}")
