"""Read `--data`: text files, folders of them, datasets of the Hub, or the built-in corpus."""

import codecs
import gzip
import hashlib
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from ctxext.checkpoints.folder import check_repo_id, path_of
from ctxext.checkpoints.hub import asking_hub, hub_failures, not_fetched
from ctxext.checkpoints.weights.safetensors_file import printable
from ctxext.data.builtin import python_files, python_sources, with_repeats
from ctxext.data.xz import open_xz
from ctxext.errors import BadInput, about, first_line, shown
from ctxext.lengths import counted

_SUFFIXES = (".txt", ".jsonl", ".parquet")
_PACKED = (".gz", ".xz")
_BUILTIN = ("builtin:python", "builtin:python/heldout", "builtin:python/repeats")
_LINE = 64 * 1024 * 1024  # bytes of one row of a .jsonl file
_PIECE = 8 * 1024 * 1024  # bytes of a text file read, and tokenised, at once
_ROWS = 16  # of a parquet file at once: a dictionary can make each of them large
_COLUMN_BUFFER = 1024 * 1024  # bytes
_FIELDS = 8  # that an error names
_HALF = re.compile("[\ud800-\udfff]")
# The longer mark first: that of UTF-16 begins it.
_WIDE = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_KINDS = (
    (list, "a list"),
    (dict, "an object"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (object, "another value"),
)
_RENDER = (
    "render each chat with its template (tokenizer.apply_chat_template) into a field of text "
    "first, and name that with --field"
)


@dataclass(frozen=True)
class Piece:
    """Text of a document. A long document comes in several; `continues` joins them."""

    text: str
    continues: bool = False


@dataclass
class Source:
    """One `--data` value, opened for reading once.

    Attributes:
        spec: as given.
        replaced: bytes that were not UTF-8 and were replaced, counted while reading.
        empty: rows that hold null in place of a text and were left out, counted while reading.
    """

    spec: str
    field_name: str = "text"
    replaced: int = 0
    empty: int = 0
    _digest: Any = field(default_factory=hashlib.sha256, repr=False)

    @property
    def name(self) -> str:
        """The name that may be written down: the file's own, never its absolute path."""
        if self.spec.startswith(("builtin:", "hf:")):
            return self.spec
        return Path(self.spec).name

    @property
    def sha256(self) -> str:
        """The SHA-256 of all text read so far."""
        return str(self._digest.hexdigest())

    def pieces(self) -> Iterator[Piece]:
        """Yield all documents, in a fixed order.

        Raises:
            BadInput: nothing there, not text, or no text in it; files are named.
        """
        has_text = False
        for piece in self._read():
            if piece.text:
                has_text = has_text or not piece.text.isspace()
                self._digest.update(piece.text.encode("utf-8", errors="surrogatepass"))
                yield piece
        if not has_text:
            if self.empty:
                raise BadInput(
                    f"--data {self.name} holds no text: every row holds null there",
                    "name another field with --field",
                )
            raise BadInput(f"--data {self.name} holds no text")

    def check(self) -> None:
        """Read a file up to its first word, to say what is wrong there before anything is loaded.

        Of a dataset of the Hub the name is looked at, and no network asked.

        Raises:
            BadInput: as `pieces`.
        """
        if self.spec.startswith("hf:"):
            _hub_name(self.spec)
        elif not self.spec.startswith("builtin:"):
            any(not p.text.isspace() for p in Source(self.spec, self.field_name).pieces())

    def state(self) -> list[Any] | None:
        """List what the text depends on, without reading it; None where that cannot be known.

        Files are taken for unchanged when path, size and time of change are, a dataset of the Hub
        when its commit is.
        """
        if self.spec.startswith("hf:"):
            commit = _hub_commit(self.spec)
            return [self.spec, self.field_name, commit] if commit else None
        builtin = self.spec.startswith("builtin:")
        files = [path for _, path in python_files()] if builtin else text_files(self.spec)
        listed: list[Any] = [self.spec if builtin else "files", self.field_name]
        for path in files:
            stat = path.stat()
            listed.append([str(path.resolve()), stat.st_size, stat.st_mtime_ns])
        return listed

    def _read(self) -> Iterator[Piece]:
        if self.spec.startswith("builtin:"):
            yield from _builtin(self.spec)
        elif self.spec.startswith("hf:"):
            yield from self._hub_dataset()
        else:
            for path in text_files(self.spec):
                with about(path):
                    yield from self._file(path)

    def _file(self, path: Path) -> Iterator[Piece]:
        suffix = _suffix(path)
        try:
            if suffix == ".parquet":
                yield from self._parquet(path)
                return
            with _opened(path) as file:
                if suffix == ".jsonl":
                    yield from self._json_lines(file, path)
                else:
                    yield from self._text(file, path)
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
            raise BadInput(f"--data {path.name} is damaged: {error}") from error
        except OSError as error:
            raise BadInput(f"--data {path.name} cannot be read: {error.strerror}") from error

    def _text(self, file: IO[bytes], path: Path) -> Iterator[Piece]:
        """Read a text file as one document, cut after whole lines where there are any."""
        rest, continues = b"", False
        while block := file.read(_PIECE):
            if not continues:
                _check_width(block, path)
            if not continues and b"\0" in block[:65536]:
                raise BadInput(f"--data {path.name} is a binary file, not text")
            block = rest + block
            cut = block.rfind(b"\n") + 1 or block.rfind(b" ") + 1 or len(block)
            if len(block) < _PIECE:
                cut = len(block)
            elif cut == len(block):
                cut = _whole_characters(block)
            yield Piece(self._decode(block[:cut], first=not continues), continues)
            rest, continues = block[cut:], True
        if rest:
            yield Piece(self._decode(rest, first=False), continues)

    def _json_lines(self, file: IO[bytes], path: Path) -> Iterator[Piece]:
        name, number = self.field_name, 0
        while line := file.readline(_LINE + 1):
            number += 1
            if len(line) > _LINE:
                raise BadInput(f"--data {path.name}, line {number}, has more than 64 MiB")
            if number == 1:
                _check_width(line, path)
            if not line.strip():
                continue
            where = f"--data {path.name}, line {number},"
            try:
                row = json.loads(self._utf8(line.removeprefix(codecs.BOM_UTF8)), parse_int=_whole)
            except RecursionError as error:
                raise BadInput(
                    f"{where} holds lists or objects nested too deep to be read",
                    "leave that field out of the file",
                ) from error
            except ValueError as error:
                raise BadInput(
                    f"{where} is not JSON",
                    'each line of a .jsonl file is one object, e.g. {"text": "..."}; name a file '
                    "of plain text .txt",
                ) from error
            text = self._text_of(row, name, where)
            if text is not None:
                yield Piece(self._without_halves(text))

    def _parquet(self, path: Path) -> Iterator[Piece]:
        import pyarrow
        import pyarrow.parquet as parquet

        try:
            # A column is read a little at a time, whatever the size of its row groups.
            with parquet.ParquetFile(path, buffer_size=_COLUMN_BUFFER) as table:
                check_column(table.schema_arrow, self.field_name, path.name)
                rows = table.iter_batches(batch_size=_ROWS, columns=[self.field_name])
                for batch in rows:
                    texts = batch.column(0)
                    if pyarrow.types.is_dictionary(texts.type):
                        texts = texts.dictionary_decode()
                    # As bytes: pyarrow believes the file that they are UTF-8.
                    for data in texts.cast(pyarrow.large_binary()).to_pylist():
                        if data is None:
                            self.empty += 1
                        else:
                            yield Piece(self._utf8(data))
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise BadInput(f"--data {path.name} is not a parquet file, or damaged") from error

    def _hub_dataset(self) -> Iterator[Piece]:
        """Stream the texts of `hf:NAME[:config[:split[:field]]]`; a field that it names counts."""
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        spec, name = self.spec, _hub_name(self.spec)
        _, config, split, named = [*spec.removeprefix("hf:").split(":"), "", "", ""][:4]
        try:
            with asking_hub(small=True):
                rows = load_dataset(name, config or None, split=split or "train", streaming=True)
            with asking_hub():
                for row in rows:
                    try:
                        text = self._text_of(row, named or self.field_name, f"--data {spec}: a row")
                    except BadInput as error:
                        if named and "--field NAME" in (error.hint or ""):  # before --field
                            error.hint = f"name the one with the text: {_other_field(spec)}"
                        raise
                    if text is not None:
                        yield Piece(text)
        except (ValueError, FileNotFoundError, DatasetsError, RuntimeError) as error:  # or a script
            raise BadInput(f"--data {spec}: {first_line(error)}") from error
        except hub_failures() as error:
            raise not_fetched(f"--data {spec}", error) from error

    def _text_of(self, row: Any, name: str, where: str) -> str | None:
        """Return a row's text; None, counted, where null stands in its place.

        Raises:
            BadInput: the row has no such field, or no text in it.
        """
        if not isinstance(row, dict) or name not in row:
            raise no_text(where, name, row)
        text = row[name]
        if text is None:
            self.empty += 1
        if not isinstance(text, str | None):
            kind = next(word for types, word in _KINDS if isinstance(text, types))
            way_out = "name the one with the text: --field NAME"
            if isinstance(text, list):
                way_out = _RENDER
            raise BadInput(f"{where} holds {kind} in the field {shown(name)}, and no text", way_out)
        return text

    def _decode(self, data: bytes, *, first: bool) -> str:
        # CRLF and a byte order mark are how a file was stored, not what it says.
        data = data.replace(b"\r\n", b"\n")
        return self._utf8(data.removeprefix(codecs.BOM_UTF8) if first else data)

    def _utf8(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            text = data.decode(errors="replace")
            self.replaced += text.count("\N{REPLACEMENT CHARACTER}")
            return text

    def _without_halves(self, text: str) -> str:
        """Replace and count halves of surrogate pairs, which JSON can escape: no characters."""
        try:
            text.encode()
        except UnicodeEncodeError:
            text, count = _HALF.subn("\N{REPLACEMENT CHARACTER}", text)
            self.replaced += count
        return text


def _check_width(start: bytes, path: Path) -> None:
    """Raise `BadInput` if the beginning of a file says that it is UTF-16 or UTF-32."""
    for mark, name in _WIDE:
        if start.startswith(mark):
            raise BadInput(
                f"--data {path.name} is {name}, not UTF-8",
                f"convert it: iconv -f {name} -t UTF-8",
            )


def _whole(digits: str) -> float:
    """Read a whole number of a row; one of thousands of digits, which Python refuses, roughly."""
    return int(digits) if len(digits) < 4000 else float(digits)


def what_was_lost(called: str, replaced: int, empty: int) -> list[str]:
    """Make a warning for bytes of a text that were not UTF-8, and for rows without a text."""
    lost = []
    if replaced:
        lost.append(f"{counted(replaced, 'byte')} {'was' if replaced == 1 else 'were'} not UTF-8")
    if empty:
        holds, left = ("holds", "is") if empty == 1 else ("hold", "are")
        lost.append(f"{counted(empty, 'row')} {holds} null and no text, and {left} left out")
    return [f"--data {called}: {words}" for words in lost]


def _whole_characters(block: bytes) -> int:
    """Find where to cut a block so that no UTF-8 character is cut in two."""
    for cut in range(len(block) - 1, max(len(block) - 5, 0), -1):
        if block[cut] & 0xC0 != 0x80:  # the first byte of a character
            return cut
    return len(block)


def _builtin(spec: str) -> Iterator[Piece]:
    if spec not in _BUILTIN:
        raise BadInput(f"--data {spec} is unknown", f"there is {', '.join(_BUILTIN)}")
    for name, text in python_sources(held_out=spec.endswith("/heldout")):
        yield Piece(with_repeats(name, text) if spec.endswith("/repeats") else text)


def text_files(spec: str) -> list[Path]:
    """List the files of a path: itself, or those of a folder, by name.

    Raises:
        BadInput: there is nothing, or nothing that is read.
    """
    path = path_of(spec, "--data")
    if path.is_dir():
        try:
            files = [p for p in sorted(path.rglob("*")) if p.is_file() and _suffix(p)]
        except OSError as error:
            raise BadInput(f"--data {spec} cannot be listed: {error}") from error
        if not files:
            raise BadInput(f"--data {spec} is a folder without .txt, .jsonl or .parquet files")
        return files
    if not path.exists():
        raise BadInput(
            f"--data {spec} does not exist",
            "give a file, a folder, hf:NAME, builtin:python or builtin:python/heldout",
        )
    if not path.is_file():
        raise BadInput(f"--data {spec} is not a regular file")
    if _suffix(path) is None:
        raise BadInput(
            f"--data {path.name} has an unknown ending",
            "known: .txt, .jsonl, .parquet, each also with .gz or .xz (.txt and .jsonl)",
        )
    return [path]


def _suffix(path: Path) -> str | None:
    suffix = Path(path.stem).suffix if path.suffix in _PACKED else path.suffix
    return suffix if suffix in _SUFFIXES and path.suffixes[-2:-1] != [".parquet"] else None


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    return open_xz(path) if path.suffix == ".xz" else path.open("rb")


def no_text(where: str, name: str, row: Any, what: str = "field") -> BadInput:
    """Write the error for a row without text in its field: the fields it has, and the way out."""
    if not isinstance(row, dict):
        return BadInput(f"{where} has no text in the {what} {shown(name)}; it is {shown(row)}")
    fields = ", ".join(printable(str(key), 40) for key in list(row)[:_FIELDS]) or "none"
    more = f" and {len(row) - _FIELDS} more" if len(row) > _FIELDS else ""
    return BadInput(
        f"{where} has no text in the {what} {shown(name)}; it has: {fields}{more}",
        "name the one with the text: --field NAME",
    )


def check_column(schema: Any, name: str, file: str) -> None:
    """Raise `BadInput` if a parquet file has no such column, or one that does not hold text."""
    import pyarrow

    places = schema.get_all_field_indices(name)
    if not places:
        raise no_text(f"--data {file}", name, dict.fromkeys(schema.names), "column")
    if len(places) > 1:
        raise BadInput(f"--data {file} has {len(places)} columns '{name}'")
    dtype = schema.field(places[0]).type
    inner = dtype.value_type if pyarrow.types.is_dictionary(dtype) else dtype
    is_list = pyarrow.types.is_list(inner) or pyarrow.types.is_large_list(inner)
    if not (
        pyarrow.types.is_string(inner)
        or pyarrow.types.is_large_string(inner)
        or pyarrow.types.is_string_view(inner)
        or pyarrow.types.is_null(inner)
    ):
        raise BadInput(
            f"--data {file}: the column '{name}' holds {str(dtype)[:100]}, not text",
            _RENDER if is_list else "name another one with --field",
        )


def _hub_commit(spec: str) -> str | None:
    """Ask for the commit that a dataset of the Hub is at; None where the Hub does not say."""
    from huggingface_hub import dataset_info

    try:
        with asking_hub(small=True):
            return dataset_info(_hub_name(spec)).sha
    except hub_failures():  # what is wrong with the name is said when it is read
        return None


def _hub_name(spec: str) -> str:
    """Read the repository in `hf:NAME[:...]`.

    Raises:
        BadInput: there is none, it can be none, or a file or folder here has that name: `datasets`
            would read it, and run what it finds.
    """
    name = spec.removeprefix("hf:").partition(":")[0]
    if not name:
        raise BadInput(f"--data {printable(spec)} names no dataset", "e.g. hf:org/name")
    if path_of(name, "--data").exists():
        raise BadInput(
            f"--data {printable(spec)}: {printable(name)} is a file or folder here, and hf: is for "
            "datasets of the Hub",
            "leave out hf:, or run ctxext in another folder",
        )
    try:
        check_repo_id(name)
    except BadInput as error:
        raise BadInput(f"--data {printable(spec)}: {error}") from error
    return name


def _other_field(spec: str) -> str:
    return f"{printable(spec.rpartition(':')[0])}:NAME"
