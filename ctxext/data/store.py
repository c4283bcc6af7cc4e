"""Tokenise a text once, keep it on disk, and read it through a memory map.

`CACHE/tokens/KEY/` holds `tokens.bin` (uint32), `ends.bin` (int64), for an evaluation `sizes.bin`
(uint32, bytes of text of each token), all little-endian, and `meta.json`. KEY is a hash of all that
decides the tokens, so nothing in there is ever out of date; a folder can be deleted at any time.
What a disk has damaged is noticed by its hash, and made again.
"""

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ctxext.data.cache import cache_folder
from ctxext.data.sources import Piece, Source
from ctxext.data.tokens import TokenIds, TokenSizes, encode
from ctxext.errors import BadInput, CtxextError
from ctxext.runs.output import beside

_FORMAT = 1
_TOKENS, _ENDS, _SIZES, _META = "tokens.bin", "ends.bin", "sizes.bin", "meta.json"
_CHARACTERS = 512 * 1024  # tokenised at once: a tokenizer needs some 200 bytes for each token
_BLOCK = 4 * 1024 * 1024  # bytes hashed at once
_WAY_OUT = "free some space, or set CTXEXT_CACHE to another folder"
_TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece")


@dataclass(frozen=True, eq=False)
class TokenFile:
    """All tokens of one text, on disk.

    Attributes:
        ids: (tokens,) uint32, memory-mapped; an end-of-text token after each document.
        ends: (documents,) int64, where each document ends in `ids`.
        source: what the text is called.
        sha256: of the tokens' bytes.
        replaced: bytes of the text that were not UTF-8.
        empty: rows that held null, and no text.
        top: the largest id.
        sizes: (tokens,) uint32, memory-mapped, bytes of text of each token; None where they were
            not asked for, or the tokenizer cannot say.
    """

    ids: TokenIds
    ends: npt.NDArray[np.int64]
    source: str
    text_sha256: str
    sha256: str
    replaced: int
    top: int
    sizes: TokenSizes | None = None
    empty: int = 0

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, (documents,)."""
        return np.diff(self.ends, prepend=0)

    def document(self, index: int) -> "Part":
        """Return the ids of a document."""
        return Part(self.ids, *self._place(index))

    def sizes_of(self, index: int) -> "Part | None":
        """Return the bytes of text of each of a document's tokens."""
        return None if self.sizes is None else Part(self.sizes, *self._place(index))

    def _place(self, index: int) -> tuple[int, int]:
        return int(self.ends[index - 1]) if index else 0, int(self.ends[index])


@dataclass(frozen=True, eq=False)
class Part:
    """Elements [start, stop) of a mapped file; what was read of them leaves no page behind."""

    whole: npt.NDArray[np.uint32]
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, span: slice, /) -> npt.NDArray[np.uint32]:
        """Return a copy."""
        first, last, _ = span.indices(len(self))
        out = np.array(self.whole[self.start + first : self.start + last])
        if isinstance(self.whole, np.memmap):
            # A text that is read through once would else lie in memory as a whole at the end.
            self.whole.base.madvise(mmap.MADV_DONTNEED)  # type: ignore[union-attr]
        return out


def stored_tokens(
    source: Source,
    tokenizer: Any,
    tokenizer_sha256: str,
    separator: int | None,
    most: int = 0,
    *,
    with_sizes: bool = False,
) -> TokenFile:
    """Read the tokens of a text from the cache, else tokenise it there, a little at a time.

    Documents longer than half a million characters are tokenised in parts cut at the ends of lines.
    Datasets of the Hub (`hf:`) can change under their name: they are tokenised anew each time.

    Args:
        tokenizer: a transformers tokenizer.
        tokenizer_sha256: of the files it was loaded from (`tokenizer_digest`).
        separator: end-of-text id put after each document that lacks it; None = nothing.
        most: tokens; what comes after them is not read. 0 = all.
        with_sizes: also keep how many bytes of text each token stands for (fast tokenizers only).

    Raises:
        BadInput: as `Source.pieces`; no token in it.
        CtxextError: the cache folder cannot be written, or the disk is full.
    """
    root = cache_folder() / "tokens"
    state = source.state()
    how = _How(tokenizer, separator, most, with_sizes and tokenizer.is_fast)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if state is None:
            with tempfile.TemporaryDirectory(dir=root, prefix=".once-") as once:
                _write(Path(once), source, how)
                return _read(Path(once), source)  # the map outlives the file's name
        what = [_FORMAT, version("tokenizers"), tokenizer_sha256, separator, state]
        what += [most] if most else []
        what += ["sizes"] if how.with_sizes else []
        key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
        from filelock import FileLock  # here: it takes longer to import than a cached text to read

        # Wait until no other process makes the same tokens; the lock ends with the process.
        with FileLock(root / f".{key}.lock"):
            return _kept(root / key, source, how)
    except OSError as error:
        raise CtxextError(
            f"tokens cannot be kept in {root}: {error.strerror or error}",
            _WAY_OUT,
        ) from error


def tokenizer_digest(folder: Path) -> str:
    """Hash the names and bytes of all files in a checkpoint that decide its tokens."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        decides = path.name.startswith(_TOKENIZER) or path.suffix in (".model", ".tiktoken", ".py")
        if decides and path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class _How:
    """How a text is tokenised; see `stored_tokens`."""

    tokenizer: Any
    separator: int | None
    most: int
    with_sizes: bool


def _kept(folder: Path, source: Source, how: _How) -> TokenFile:
    try:
        return _read(folder, source)
    except (OSError, ValueError, KeyError):
        shutil.rmtree(folder, ignore_errors=True)
    with beside(folder, way_out=_WAY_OUT) as staging:
        _write(staging, source, how)
    return _read(folder, source)


class _Writer:
    """Tokens on their way to disk, and what has to be known of them at the end."""

    def __init__(self, tokens: IO[bytes], sizes: IO[bytes] | None) -> None:
        self._tokens, self._sizes = tokens, sizes
        self.digest, self.sizes_digest = hashlib.sha256(), hashlib.sha256()
        self.ends = array("q")
        self.at, self.top, self._last, self._begun = 0, 0, -1, 0
        self._unsaid = 0  # bytes of the document behind its last token

    def put(self, ids: TokenIds, sizes: TokenSizes | None, text: str) -> None:
        """Write the tokens of a part of a document."""
        if sizes is not None:
            unsaid = len(text.encode("utf-8", "surrogatepass")) - int(sizes.sum())
            if len(sizes):
                sizes[0] += self._unsaid
                self._unsaid = 0
            self._unsaid += unsaid
        self._put(ids, sizes)

    def end_document(self, separator: int | None) -> None:
        """End a document: what comes next belongs to another."""
        if self.at > self._begun:
            if separator is not None and self._last != separator:
                self._put(np.array([separator], dtype=np.uint32), np.zeros(1, dtype=np.uint32))
            self.ends.append(self.at)
            self._begun = self.at
        self._unsaid = 0

    def _put(self, ids: TokenIds, sizes: TokenSizes | None) -> None:
        if not len(ids):
            return
        _add(self._tokens, self.digest, ids)
        if self._sizes is not None and sizes is not None:
            _add(self._sizes, self.sizes_digest, sizes)
        self.at, self.top, self._last = self.at + len(ids), max(self.top, int(ids.max())), ids[-1]


def _add(file: IO[bytes], digest: Any, values: npt.NDArray[np.uint32]) -> None:
    data = values.astype("<u4").tobytes()
    file.write(data)
    digest.update(data)


def _write(folder: Path, source: Source, how: _How) -> None:
    with ExitStack() as files:
        tokens = files.enter_context((folder / _TOKENS).open("wb"))
        sizes = files.enter_context((folder / _SIZES).open("wb")) if how.with_sizes else None
        writer = _Writer(tokens, sizes)
        for piece in source.pieces():
            if not piece.continues:
                writer.end_document(how.separator)
            for chunk in _chunks(piece):
                left = how.most - writer.at if how.most else None
                ids, bytes_of = encode(how.tokenizer, chunk, left, with_sizes=how.with_sizes)
                writer.put(ids, bytes_of, chunk.text)
                if writer.at == how.most:  # never with 0: an empty piece is no piece
                    break
            if writer.at == how.most:
                break
        writer.end_document(how.separator)
        if not writer.at:
            raise BadInput(f"the tokenizer gives no token for --data {source.name}")
        for file in (tokens, sizes) if sizes else (tokens,):
            _flush(file)
    lasts = np.array(writer.ends, dtype="<i8").tobytes()
    with (folder / _ENDS).open("wb") as file:
        file.write(lasts)
        _flush(file)
    meta = {
        "text_sha256": source.sha256,
        "sha256": writer.digest.hexdigest(),
        "replaced": source.replaced,
        "empty": source.empty,
        "top": writer.top,
        "ends_sha256": hashlib.sha256(lasts).hexdigest(),
    }
    if how.with_sizes:
        meta["sizes_sha256"] = writer.sizes_digest.hexdigest()
    text = json.dumps(meta).encode()
    with (folder / _META).open("wb") as file:
        file.write(text + b"\n" + hashlib.sha256(text).hexdigest().encode())
        _flush(file)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read(folder: Path, source: Source) -> TokenFile:
    """Read what `_write` left, and compare each file with its hash.

    Raises:
        OSError, ValueError, KeyError: a file is missing or damaged.
    """
    text, _, digest = (folder / _META).read_bytes().partition(b"\n")
    lasts = (folder / _ENDS).read_bytes()
    if hashlib.sha256(text).hexdigest().encode() != digest:
        raise ValueError(f"{_META} is damaged")
    meta = json.loads(text)
    if hashlib.sha256(lasts).hexdigest() != meta["ends_sha256"]:
        raise ValueError(f"{_ENDS} is damaged")
    ids = _mapped(folder / _TOKENS, meta["sha256"])
    sizes = _mapped(folder / _SIZES, meta["sizes_sha256"]) if "sizes_sha256" in meta else None
    return TokenFile(
        ids, np.frombuffer(lasts, dtype="<i8"), source.name, str(meta["text_sha256"]),
        str(meta["sha256"]), int(meta["replaced"]), int(meta["top"]), sizes,
        int(meta.get("empty", 0)),
    )  # fmt: skip


def _mapped(path: Path, sha256: str) -> npt.NDArray[np.uint32]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != sha256:
        raise ValueError(f"{path.name} is damaged")
    return np.memmap(path, dtype="<u4", mode="r")


def _chunks(piece: Piece) -> Iterator[Piece]:
    """Cut a piece into chunks of about half a million characters, after a line if there is one."""
    text, start, continues = piece.text, 0, piece.continues
    while len(text) - start > _CHARACTERS:
        stop = start + _CHARACTERS
        cut = text.rfind("\n", start, stop) + 1
        cut = cut if cut > start else (text.rfind(" ", start, stop) or stop)
        cut = cut if cut > start else stop
        yield Piece(text[start:cut], continues)
        start, continues = cut, True
    yield Piece(text[start:], continues)
