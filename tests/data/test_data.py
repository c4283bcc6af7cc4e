"""Text in, rows out: every source, packing as a function of the step, no token lost."""

import gzip
import json
import lzma
import subprocess
import zlib

import numpy as np
import pytest
from hypothesis import given, strategies as st
from transformers import AutoTokenizer

from ctxext.data.builtin import is_held_out, python_sources, with_repeats
from ctxext.data.packing import PackedRows
from ctxext.data.sources import Source
from ctxext.data.tokens import Corpus, check_top, tokenize
from ctxext.errors import BadInput
from support.texts import stream


def texts(spec, **arguments):
    return [piece.text for piece in Source(str(spec), **arguments).pieces()]


def test_every_kind_of_file_gives_the_same_documents(tmp_path):
    documents = ["one\ntwo\n", "drei vier", "五六"]
    rows = "".join(json.dumps({"text": d, "n": 1}) + "\n" for d in documents)
    (tmp_path / "a.jsonl").write_text(rows)
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(rows)
    with lzma.open(tmp_path / "a.jsonl.xz", "wt") as file:
        file.write(rows)
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": documents, "other": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.jsonl.gz", "a.jsonl.xz", "a.parquet"):
        assert texts(tmp_path / name) == documents, name
    folder = tmp_path / "folder"
    folder.mkdir()
    for index, document in enumerate(documents):
        (folder / f"{index}.txt").write_text(document)
    (folder / "ignored.md").write_text("no")
    assert texts(folder) == documents
    with lzma.open(tmp_path / "b.txt.xz", "wt") as file:
        file.write(documents[0])
    assert texts(tmp_path / "b.txt.xz") == documents[:1]


def test_text_is_what_it_says(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo \xff\xfe three")
    source = Source(str(tmp_path / "a.txt"))
    assert [p.text for p in source.pieces()] == ["one\ntwo \ufffd\ufffd three"]
    assert source.replaced == 2
    assert source.name == "a.txt"


def with_dictionary(packed, code):
    """An .xz file whose first block claims another dictionary: code 40 is 4 GiB - 1."""
    data = bytearray(packed)
    size = (data[12] + 1) * 4  # of the block's header, which ends with its CRC32
    assert data[14:16] == b"\x21\x01"  # LZMA2, one byte of properties
    data[16] = code
    data[12 + size - 4 : 12 + size] = zlib.crc32(data[12 : 12 + size - 4]).to_bytes(4, "little")
    return bytes(data)


def test_an_xz_file_that_wants_gigabytes_is_refused(tmp_path):
    path = tmp_path / "a.txt.xz"
    packed = lzma.compress(b"some words", preset=9)
    path.write_bytes(with_dictionary(packed, 28))  # 64 MiB, as `xz -9`
    assert texts(path) == ["some words"]
    path.write_bytes(with_dictionary(packed, 40))
    with pytest.raises(BadInput, match=r"a.txt.xz needs more than 256 MiB"):
        texts(path)


def test_xz_streams_one_after_the_other(tmp_path):
    path = tmp_path / "a.txt.xz"
    long = "".join(f"line {i}\n" for i in range(100_000))
    one, two = lzma.compress(long.encode()), lzma.compress(b"second")
    path.write_bytes(one + b"\0" * 8 + two + b"\0" * 4)
    assert "".join(texts(path)) == long + "second"
    for cut in (b"", one[:-9], one + two[:20], one + b"junk"):
        path.write_bytes(cut)
        with pytest.raises(BadInput, match=r"a.txt.xz is damaged"):
            texts(path)


def test_half_characters_are_replaced_and_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b\\udc00\\ud83d\\ude00"}\n')
    source = Source(str(path))
    assert [p.text for p in source.pieces()] == ["a\ufffdb\ufffd\U0001f600"]
    assert source.replaced == 2


def test_bytes_and_numbers_of_a_row_that_are_no_text(tmp_path):
    """Latin-1 is replaced and counted as in a .txt; a number may have any digits."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "caf\xe9", "n": ' + b"9" * 5000 + b"}\n")
    source = Source(str(path))
    assert [p.text for p in source.pieces()] == ["caf\ufffd"]
    assert source.replaced == 1


def test_rows_that_hold_null_are_left_out_and_counted(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": None}, {"text": "words"}, {"text": None}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        source = Source(str(tmp_path / name))
        assert [p.text for p in source.pieces()] == ["words"]
        assert source.empty == 2
    (tmp_path / "none.jsonl").write_text('{"text": null}\n' * 2)
    with pytest.raises(BadInput, match="every row holds null") as refusal:
        list(Source(str(tmp_path / "none.jsonl")).pieces())
    assert "--field" in refusal.value.hint


@pytest.mark.parametrize(
    ("value", "words", "hint"),
    [
        ([{"role": "user", "content": "hi"}], "holds a list in the field 'text'", "chat_template"),
        ({"a": 1}, "holds an object in the field 'text', and no text", "--field NAME"),
        (5, "holds a number in the field 'text'", "--field NAME"),
        (float("nan"), "holds a number in the field 'text'", "--field NAME"),
        (True, "holds true or false in the field 'text'", "--field NAME"),
    ],
)
def test_a_field_without_text_is_told_by_what_it_holds(tmp_path, value, words, hint):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": value}) + "\n")
    with pytest.raises(BadInput, match=f"a.jsonl, line 1, {words}") as caught:
        texts(tmp_path / "a.jsonl")
    assert hint in caught.value.hint


def test_a_column_of_lists_is_a_chat_to_render(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([{"text": [{"role": "user"}]}])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="'text' holds list") as caught:
        texts(tmp_path / "a.parquet")
    assert "apply_chat_template" in caught.value.hint


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("coding", ["UTF-16", "UTF-32"])
def test_wide_characters_are_named_with_the_way_out(tmp_path, name, coding):
    text = json.dumps({"text": "words"})
    (tmp_path / name).write_bytes(text.encode(coding))
    with pytest.raises(BadInput, match=f"{name} is {coding}, not UTF-8") as caught:
        texts(tmp_path / name)
    command = caught.value.hint.removeprefix("convert it: ").split()
    done = subprocess.run([*command, tmp_path / name], capture_output=True, text=True, check=True)
    assert done.stdout == text


@pytest.mark.parametrize(
    ("line", "words", "hint"),
    [
        ("some plain words", "line 1, is not JSON", ".txt"),
        ('{"text": "a", "b": ' + "[" * 3000 + "]" * 3000 + "}", "nested too deep", "leave that"),
    ],
)
def test_a_row_that_cannot_be_read_has_a_way_out(tmp_path, line, words, hint):
    (tmp_path / "a.jsonl").write_text(line + "\n")
    with pytest.raises(BadInput, match=words) as caught:
        texts(tmp_path / "a.jsonl")
    assert hint in caught.value.hint


def test_strings_of_parquet_are_decoded_here(tmp_path):
    import pyarrow
    import pyarrow.parquet

    raw = pyarrow.array([b"good", None, b"\xff\xfe bad"], pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), 3, raw.buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    source = Source(str(tmp_path / "a.parquet"))
    assert [p.text for p in source.pieces()] == ["good", "\ufffd\ufffd bad"]
    assert source.replaced == 2
    table = pyarrow.table({"day": pyarrow.array([2**31 - 1], pyarrow.date32())})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    with pytest.raises(BadInput, match=r"column 'day' holds date32\[day\], not text"):
        texts(tmp_path / "b.parquet", field_name="day")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_row_without_text_names_eight_of_its_fields_and_the_way_out(tmp_path, name):
    import pyarrow
    import pyarrow.parquet

    row = {f"f{number}": "words" for number in range(10)}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "rows.parquet")
    with pytest.raises(BadInput, match=f"{name}.* 'text'; it has: f0, .*, f7 and 2 more") as caught:
        texts(tmp_path / name)
    assert "--field NAME" in caught.value.hint
    assert texts(tmp_path / name, field_name="f9") == ["words"]


def test_long_files_come_in_pieces_that_join_to_the_whole(tmp_path, monkeypatch, tiny_llama):
    monkeypatch.setattr("ctxext.data.sources._PIECE", 1000)
    text = "".join(f"line {i} of é text\n" for i in range(500))
    (tmp_path / "a.txt").write_text(text)
    pieces = list(Source(str(tmp_path / "a.txt")).pieces())
    assert len(pieces) > 5
    assert [p.continues for p in pieces] == [False] + [True] * (len(pieces) - 1)
    assert "".join(p.text for p in pieces) == text
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    corpus = tokenize(Source(str(tmp_path / "a.txt")), tokenizer)
    assert len(corpus.documents) == 1
    assert bytes(corpus.documents[0].astype(np.uint8)).decode() == text


def test_limit_gives_the_first_tokens(tmp_path, stories):
    tokenizer = AutoTokenizer.from_pretrained(stories)
    text = "Once upon a time there was a little girl named Lily. " * 400
    (tmp_path / "a.txt").write_text(text)
    whole = tokenize(Source(str(tmp_path / "a.txt")), tokenizer).documents[0]
    assert whole.tolist() == tokenizer(text)["input_ids"]
    for limit in (1, 7, 500, 5000):
        first = tokenize(Source(str(tmp_path / "a.txt")), tokenizer, limit=limit)
        assert first.documents[0].tolist() == whole[:limit].tolist()


def test_builtin_sides_share_no_module():
    train = {name for name, _ in python_sources(held_out=False)}
    held = {name for name, _ in python_sources(held_out=True)}
    assert train
    assert held
    assert not train & held
    assert all(is_held_out(name) for name in held)
    assert not any("test" in name.split("/")[:-1] for name in train | held)
    with pytest.raises(BadInput, match="builtin:ruby"):
        texts("builtin:ruby")


def test_repeats_stand_twice_and_are_always_the_same():
    text = "def f(x):\n    return x\n" * 400 + "é"
    made = with_repeats("a.py", text)
    assert made == with_repeats("a.py", text) != with_repeats("b.py", text)
    assert len(made) == (len(text) - 1) // 2048 * 2048
    foreign = sum(a != b for a, b in zip(made, text, strict=False)) / len(made)
    assert 0.1 < foreign < 0.7
    # Every character that was written over belongs to a string that stands once more nearby.
    found = 0
    for begin in range(0, len(made), 2048):
        block, plain = made[begin : begin + 2048], text[begin : begin + 2048]
        for slot in range(2048 // 24):
            cut = slice(slot * 24, slot * 24 + 8)
            if sum(a != b for a, b in zip(block[cut], plain[cut], strict=True)) > 4:
                assert block.count(block[cut]) >= 2
                found += 1
    assert found > 20
    assert with_repeats("a.py", "short") == ""


@given(tokens=st.integers(10, 300), length=st.integers(2, 40), seed=st.integers(0, 5))
def test_an_epoch_reads_every_row_once(tokens, length, seed):
    if tokens < length:
        return
    rows = PackedRows(np.arange(tokens, dtype=np.uint32), length, seed)
    for epoch in range(3):
        batch = rows.batch(epoch * rows.rows, rows.rows)
        assert sorted(batch[:, 0].tolist()) == [i * length for i in range(rows.rows)]
        assert (np.diff(batch, axis=1) == 1).all()
    assert (rows.batch(3, 2) == np.concatenate([rows.batch(3, 1), rows.batch(4, 1)])).all()


def test_rows_depend_on_the_seed_and_need_text():
    stream = np.arange(1000, dtype=np.uint32)
    one, two = PackedRows(stream, 10, 0).batch(0, 50), PackedRows(stream, 10, 1).batch(0, 50)
    assert (one != two).any()
    with pytest.raises(BadInput, match="1000 tokens, and one row needs --seq-length 2048"):
        PackedRows(stream, 2048, 0)


def test_separator_stands_after_each_document_once():
    documents = tuple(np.array(d, dtype=np.uint32) for d in ([5, 6], [7, 2], [8]))
    corpus = Corpus(documents, "x", "0", 0)
    assert stream(corpus, 2).tolist() == [5, 6, 2, 7, 2, 8, 2]
    assert stream(corpus, None).tolist() == [5, 6, 7, 2, 8]


def test_a_foreign_tokenizer_is_noticed():
    with pytest.raises(BadInput, match="token 300, and the model has 256"):
        check_top(300, 256)
