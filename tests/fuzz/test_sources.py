"""Text files that somebody broke: their text, or one sentence."""

import gzip
import io
import json
import lzma
from datetime import date, datetime, timedelta
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, strategies as st

from ctxext.data.sources import Source
from support.fuzzing import answers, broken, broken_bytes, fuzzed

TEXT = "The first line, naïve café.\r\nA second 上下文 one.\n" * 3
ROW = {"text": TEXT, "n": 1, "meta": {"a": [1, 2.5, None], "b": "x"}}


def written(table, **how):
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, **how)
    return file.getvalue()


FILES = {
    "a.txt": TEXT.encode(),
    "a.txt.gz": gzip.compress(TEXT.encode()),
    "a.txt.xz": lzma.compress(TEXT.encode()) + lzma.compress(b"again"),
    "a.jsonl": (json.dumps(ROW) + "\n").encode() * 3,
    "a.jsonl.gz": gzip.compress((json.dumps(ROW) + "\n").encode() * 3),
    "a.parquet": written(pyarrow.table({"text": [TEXT, None, "b"], "n": [1, 2, 3]})),
    "dictionary.parquet": written(
        pyarrow.table({"text": pyarrow.array([TEXT, "b"] * 9).dictionary_encode()})
    ),
    "plain.parquet": written(
        pyarrow.table({"text": [TEXT] * 40}), use_dictionary=False, compression="none"
    ),
}


def read(path, field="text"):
    source = Source(str(path), field)
    pieces = [piece.text for piece in source.pieces()]
    for piece in pieces:
        piece.encode()  # what comes out is text
    return pieces, source.replaced


def held(path):
    found, said = answers(read, path)
    assert found is not None or said.exit_code == 2, said
    return found


@fuzzed
@given(data=st.data())
def test_bytes_that_somebody_broke(tmp_path_factory, data):
    name = data.draw(st.sampled_from(sorted(FILES)))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data.draw(broken_bytes(FILES[name])))
    held(path)


@fuzzed
@given(document=broken(ROW), more=st.sampled_from(["", "[]", "7", "{", "\ufeff{}", "[" * 5000]))
def test_rows_with_odd_values(tmp_path_factory, document, more):
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    path.write_bytes(f"{json.dumps(document)}\n{more}\n".encode("utf-8", "surrogatepass"))
    found = held(path)
    if found:
        assert found[0] == [document["text"].encode("utf-8", "replace").decode()] or found[1]


_SCALARS = [
    (pyarrow.date32(), st.integers(-(2**31), 2**31 - 1)),
    (pyarrow.date64(), st.integers(-(2**40), 2**40)),
    (pyarrow.duration("s"), st.integers(-(2**63), 2**63 - 1)),
    (pyarrow.timestamp("us", "Nope/Zone"), st.integers(-(2**63), 2**63 - 1)),
    (pyarrow.timestamp("ns", "+99:99"), st.integers(-(2**62), 2**62)),
    (pyarrow.time64("us"), st.integers(-(2**63), 2**63 - 1)),
    (pyarrow.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pyarrow.float64(), st.floats()),
    (pyarrow.binary(), st.binary(max_size=9)),
    (pyarrow.decimal128(38, 3), st.just(Decimal("1.5"))),
    (pyarrow.bool_(), st.booleans()),
    (pyarrow.list_(pyarrow.string()), st.lists(st.text(max_size=3), max_size=3)),
    (pyarrow.struct({"text": pyarrow.string()}), st.just({"text": "inside"})),
    (pyarrow.map_(pyarrow.string(), pyarrow.string()), st.just([("a", "b")])),
    (pyarrow.null(), st.none()),
]


@fuzzed
@given(data=st.data())
def test_columns_of_any_type(tmp_path_factory, data):
    kind, values = data.draw(st.sampled_from(_SCALARS))
    column = data.draw(st.lists(st.one_of(st.none(), values), max_size=4))
    path = tmp_path_factory.getbasetemp() / "typed.parquet"
    table = pyarrow.table({"text": pyarrow.array(column, kind), "other": ["x"] * len(column)})
    path.write_bytes(written(table))
    assert held(path) is None
    assert answers(read, path, "other")[1] is None or not column


@fuzzed
@given(rows=st.lists(st.binary(max_size=20), min_size=1, max_size=5), wide=st.booleans())
def test_strings_that_are_no_utf8(tmp_path_factory, rows, wide):
    raw = pyarrow.array(rows, pyarrow.large_binary() if wide else pyarrow.binary())
    kind = pyarrow.large_string() if wide else pyarrow.string()
    path = tmp_path_factory.getbasetemp() / "raw.parquet"
    column = pyarrow.Array.from_buffers(kind, len(rows), raw.buffers())
    path.write_bytes(written(pyarrow.table({"text": column})))
    found = held(path)
    expected = [row.decode(errors="replace") for row in rows if row]
    if "".join(expected).strip():
        assert found[0] == expected
        bad = [row for row in rows if row.decode(errors="ignore").encode() != row]
        assert (found[1] > 0) == bool(bad)


@pytest.mark.parametrize(
    "value", [date(2020, 1, 1), datetime(2020, 1, 1), timedelta(1), 5, [["a"]], {"a": "b"}]
)
def test_what_a_column_holds_is_said(tmp_path, value):
    path = tmp_path / "a.parquet"
    path.write_bytes(written(pyarrow.table({"text": [value]})))
    assert "the column 'text' holds " in str(answers(read, path)[1])
