"""Tokens on disk: as in memory, made once, made again when damaged, never all in memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ctxext.data import store
from ctxext.data.cache import cache_folder
from ctxext.data.sources import Source
from ctxext.data.store import stored_tokens, tokenizer_digest
from ctxext.data.tokens import tokenize
from ctxext.errors import BadInput, CtxextError
from ctxext.machine.memory import process_memory
from support.texts import stream


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CTXEXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


@pytest.fixture
def tokenizer(tiny_llama):
    return AutoTokenizer.from_pretrained(tiny_llama)


def jsonl(path, documents):
    path.write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    return path


def folders(cache):
    return [p for p in cache.iterdir() if p.is_dir()]


def test_the_cache_folder_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("CTXEXT_CACHE", raising=False)
    assert str(cache_folder()) == "/x/ctxext"
    monkeypatch.setenv("CTXEXT_CACHE", "/y")
    assert str(cache_folder()) == "/y"


@pytest.mark.parametrize("separator", [None, 10])
def test_same_tokens_as_in_memory(tmp_path, cache, tokenizer, separator):
    documents = ["one\n", "two", "", "three four five", "\n"]
    path = jsonl(tmp_path / "a.jsonl", documents)
    kept = stored_tokens(Source(str(path)), tokenizer, "t", separator)
    plain = tokenize(Source(str(path)), tokenizer)
    assert kept.ids.tolist() == stream(plain, separator).tolist()
    assert len(kept.ends) == len(plain.documents) == 4
    assert isinstance(kept.ids, np.memmap)
    assert (kept.text_sha256, kept.replaced) == (plain.sha256, plain.replaced)
    assert kept.top == max(int(d.max()) for d in plain.documents)
    starts = [0, *kept.ends[:-1].tolist()]
    for start, end, document in zip(starts, kept.ends.tolist(), plain.documents, strict=True):
        own = kept.ids[start:end].tolist()
        added = separator is not None and document[-1] != separator
        assert own == document.tolist() + [separator] * int(added)


def test_long_documents_are_tokenised_in_parts(tmp_path, cache, tokenizer, monkeypatch):
    monkeypatch.setattr(store, "_CHARACTERS", 100)
    text = "".join(f"line {i} of é text\n" for i in range(50)) + "x" * 350 + " " + "y" * 99
    path = jsonl(tmp_path / "a.jsonl", [text, "second"])
    calls = []
    real = store.encode
    monkeypatch.setattr(
        store, "encode", lambda t, p, *a, **k: calls.append(p) or real(t, p, *a, **k)
    )
    kept = stored_tokens(Source(str(path)), tokenizer, "t", None)
    assert bytes(kept.ids[: kept.ends[0]].astype(np.uint8)).decode() == text
    assert max(len(p.text) for p in calls) <= 100
    assert [p.continues for p in calls].count(False) == 2
    assert calls[0].text.endswith("\n")


def test_how_many_bytes_each_token_stands_for(tmp_path, cache, monkeypatch):
    """Words, here, of a tokenizer that drops white space and one word in three."""
    monkeypatch.setattr(store, "_CHARACTERS", 60)
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "é": 1, "[X]": 2}, "[X]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=inner)
    documents = ["  a é 上下文\n" * 20, "é\n\n", "a  "]
    source = Source(str(jsonl(tmp_path / "a.jsonl", documents)))
    kept = stored_tokens(source, words, "t", None, with_sizes=True)
    for index, text in enumerate(documents):
        ends, at = [], 0
        for word in text.split():  # each token reaches from the end of the one before to its own
            at = text.index(word, at) + len(word)
            ends.append(len(text[:at].encode()))
        assert np.cumsum(kept.sizes_of(index)[:]).tolist() == ends
        assert kept.document(index)[1:3].tolist() == kept.ids[kept.ends[index] - len(ends) :][
            1 : min(3, len(ends))
        ].tolist()  # fmt: skip
    assert kept.lengths.tolist() == [len(text.split()) for text in documents]
    assert stored_tokens(source, words, "t", None).sizes is None
    (tmp_path / "cache").rename(tmp_path / "gone")  # a map outlives its file's name
    assert len(kept.sizes) == len(kept.ids)


def test_what_was_read_of_a_mapped_text_does_not_stay_in_memory(tmp_path):
    """Read through from end to end, with a page in memory at a time."""
    np.zeros(16 * 2**20, dtype="<u4").tofile(tmp_path / "t")  # 64 MiB
    part = store.Part(np.memmap(tmp_path / "t", dtype="<u4", mode="r"), 0, 16 * 2**20)
    before = process_memory()
    for at in range(0, len(part), 4096):
        part[at : at + 4096]
    assert process_memory() - before < 8 * 2**20


def test_a_text_without_tokens_is_named(tmp_path, cache):
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}))
    inner.normalizer = tokenizers.normalizers.Replace("b", "")
    source = Source(str(jsonl(tmp_path / "a.jsonl", ["b"])))
    with pytest.raises(BadInput, match=r"no token for --data a\.jsonl"):
        stored_tokens(source, PreTrainedTokenizerFast(tokenizer_object=inner), "t", None)


def test_made_once_for_what_decides_the_tokens(tmp_path, cache, tokenizer, monkeypatch):
    path = jsonl(tmp_path / "a.jsonl", ["one", "two"])
    first = stored_tokens(Source(str(path)), tokenizer, "t", None)

    def refuse(*_, **__):
        raise AssertionError("tokenised again")

    with monkeypatch.context() as patch:
        patch.setattr(store, "encode", refuse)
        again = stored_tokens(Source(str(path)), tokenizer, "t", None)
        assert again.ids.tolist() == first.ids.tolist()
        assert again.sha256 == first.sha256
        for change in ({"tokenizer": "u"}, {"separator": 3}):
            with pytest.raises(AssertionError):
                stored_tokens(
                    Source(str(path)), tokenizer, change.get("tokenizer", "t"),
                    change.get("separator"),
                )  # fmt: skip
    jsonl(path, ["one", "TWO"])
    os.utime(path, ns=(1, 1))
    assert stored_tokens(Source(str(path)), tokenizer, "t", None).ids[-3:].tolist() == [*b"TWO"]


@pytest.mark.parametrize("name", ["tokens.bin", "ends.bin", "meta.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "gone", "empty"])
def test_damaged_files_are_made_again(tmp_path, cache, tokenizer, name, harm):
    path = jsonl(tmp_path / "a.jsonl", ["one two three four", "five"])
    good = stored_tokens(Source(str(path)), tokenizer, "t", None).ids.tolist()
    (folder,) = folders(cache)
    file = folder / name
    data = bytearray(file.read_bytes())
    if harm == "gone":
        file.unlink()
    elif harm == "flip":
        data[len(data) // 2] ^= 0x41
        file.write_bytes(data)
    else:
        file.write_bytes(data[: len(data) // 2 if harm == "cut" else 0])
    again = stored_tokens(Source(str(path)), tokenizer, "t", None)
    assert again.ids.tolist() == good
    assert again.ends.tolist() == [18, 22]
    assert len(folders(cache)) == 1


@pytest.mark.parametrize("name", ["tokens.bin", "ends.bin", "meta.json"])
def test_every_flipped_bit_is_noticed(tmp_path, cache, tokenizer, name):
    path = jsonl(tmp_path / "a.jsonl", ["one two", "three"])
    source = Source(str(path))
    stored_tokens(source, tokenizer, "t", None)
    (folder,) = folders(cache)
    good = (folder / name).read_bytes()
    for place in range(len(good)):
        bad = bytearray(good)
        bad[place] ^= 1 << (place % 8)
        (folder / name).write_bytes(bad)
        with pytest.raises((OSError, ValueError, KeyError)):
            store._read(folder, source)


def test_what_a_killed_process_left_is_swept_away(tmp_path, cache, tokenizer):
    path = jsonl(tmp_path / "a.jsonl", ["one"])
    stored_tokens(Source(str(path)), tokenizer, "t", None)
    (folder,) = folders(cache)
    folder.rename(folder.with_name(f".{folder.name}.ctxext-tmp-0"))
    (cache / f".{folder.name}.ctxext-tmp-0" / "tokens.bin").write_bytes(b"half")
    assert stored_tokens(Source(str(path)), tokenizer, "t", None).ids.tolist() == [*b"one"]
    assert folders(cache) == [folder]


def test_a_failed_reading_leaves_nothing(tmp_path, cache, tokenizer):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n{"tex": 1}\n')
    with pytest.raises(BadInput, match="line 2"):
        stored_tokens(Source(str(path)), tokenizer, "t", None)
    assert folders(cache) == []


def test_what_can_change_under_its_name_is_not_kept(tmp_path, cache, tokenizer, monkeypatch):
    path = jsonl(tmp_path / "a.jsonl", ["one"])
    monkeypatch.setattr(Source, "state", lambda self: None)
    kept = stored_tokens(Source(str(path)), tokenizer, "t", None)
    assert folders(cache) == []
    assert kept.ids.tolist() == [*b"one"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, tokenizer, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CTXEXT_CACHE", str(tmp_path / "file"))
    path = jsonl(tmp_path / "a.jsonl", ["one"])
    with pytest.raises(CtxextError, match="cannot be kept") as caught:
        stored_tokens(Source(str(path)), tokenizer, "t", None)
    assert "CTXEXT_CACHE" in caught.value.hint


def test_the_digest_sees_the_tokenizer_and_nothing_else(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    before = tokenizer_digest(tmp_path)
    (tmp_path / "config.json").write_text("{1}")
    assert tokenizer_digest(tmp_path) == before
    (tmp_path / "tokenizer.json").write_text("{1}")
    assert tokenizer_digest(tmp_path) != before


_MEASURE = """
import resource, sys
import tokenizers
from transformers import PreTrainedTokenizerFast
from ctxext.data import sources, store
from ctxext.data.sources import Source
from ctxext.data.store import stored_tokens

sources._PIECE, store._CHARACTERS = 512 * 1024, 128 * 1024  # a sixteenth, as the texts are
inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="b"))
inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
stored_tokens(Source(sys.argv[1]), tokenizer, "t", None)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
kept = stored_tokens(Source(sys.argv[2]), tokenizer, "t", None)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak, len(kept.ids))
"""


def test_memory_does_not_grow_with_the_text(tmp_path, cache):
    line = " ".join(["x" * 255] * 4) + "\n"  # 1 KiB
    (tmp_path / "small.txt").write_text(line * 1024)  # 1 MiB: two pieces
    (tmp_path / "large.txt").write_text(line * 12 * 1024)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, tmp_path / "small.txt", tmp_path / "large.txt"],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, tokens = map(int, done.stdout.split())
    assert tokens == 12 * 1024 * 4
    assert grown < 2 * 1024, f"12 MiB of text cost {grown} KiB"


def test_only_what_can_be_known_has_a_state(tmp_path):
    assert Source("hf:some/name").state() is None
    path = jsonl(tmp_path / "a.jsonl", ["one"])
    states = [Source(str(path)).state(), Source(str(path), "other").state()]
    states += [Source("builtin:python").state(), Source("builtin:python/heldout").state()]
    assert len({json.dumps(state) for state in states}) == 4


def test_only_the_first_tokens_are_read(tmp_path, tokenizer):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(f'{{"text": "document {n}"}}\n' for n in range(50)))
    whole = stored_tokens(Source(str(path)), tokenizer, "t", None)
    source = Source(str(path))
    first = stored_tokens(source, tokenizer, "t", None, 25)
    assert first.ids.tolist() == whole.ids[:25].tolist()
    assert first.ends.tolist() == [10, 20, 25]
    assert first.text_sha256 != whole.text_sha256  # what was not read is not claimed
    assert stored_tokens(Source(str(path)), tokenizer, "t", None, 10**6).ids.tolist() == (
        whole.ids.tolist()
    )
