"""What people type for a model, a tokenizer or a text: found, or one sentence; no network is asked.

Names that the Hub could have are answered by its client, which is told that it is offline.
"""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, strategies as st

from ctxext.checkpoints.folder import find_checkpoint, find_tokenizer
from ctxext.data.cache import cache_folder, check_cache_folder
from ctxext.data.sources import Source
from support.fuzzing import answers, fuzzed

PARTS = st.sampled_from(
    ["my", "--", "..", ".", "/", "//", "~", "~nobody", "x.git", "a" * 97, ":", "@", "\0", "\n",
     "é", "\ud800", "[/red]", "hf:", "builtin:", "builtin:python", " ", "-", "_", "$HOME", "%",
     "org/name", "file", "folder", "folder/config.json", "pipe", "\\", "?", "*", "a" * 300]
)  # fmt: skip
NAMES = st.one_of(st.lists(PARTS, max_size=5).map("".join), st.text(max_size=30)).filter(
    # what can be a large folder of this machine is not walked through
    lambda name: name != "~" and not name.startswith(("/", "~/")) and ".." not in name.split("/")
)


@pytest.fixture(scope="module", autouse=True)
def here():
    """A folder with something of each kind, as the working folder."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        Path("folder").mkdir()
        Path("folder/script.py").write_text("raise SystemExit")
        Path("file").write_text("text")
        os.mkfifo("pipe")
        yield
        os.chdir(before)


@fuzzed
@given(name=NAMES)
@example("my--model")
@example("a..b")
@example("x.git")
@example("org/a--b")
@example("~nobody/model")
def test_odd_names_of_models(name):
    answers(find_checkpoint, name)


@fuzzed
@given(name=NAMES)
def test_odd_names_of_tokenizers(name):
    answers(find_tokenizer, name)


@fuzzed
@given(prefix=st.sampled_from(["", "hf:", "hf:org/name:"]), name=NAMES)
@example("hf:", "")
@example("hf:", "folder")
@example("hf:", "./folder")
@example("", "~nobody/a.txt")
def test_odd_names_of_texts(prefix, name):
    answers(Source(prefix + name).check)


@fuzzed
@given(name=NAMES.filter(lambda name: "\0" not in name and "\ud800" not in name))
def test_odd_names_of_cache_folders(name):
    before = os.environ["CTXEXT_CACHE"]
    try:
        os.environ["CTXEXT_CACHE"] = name
        answers(cache_folder)
        answers(check_cache_folder)
    finally:
        os.environ["CTXEXT_CACHE"] = before
