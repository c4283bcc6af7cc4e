"""Text tokenised once, kept on disk, and read through a memory map.

`CACHE/tokens/KEY/` holds `tokens.bin` (uint32), `ends.bin` (int64, both little-endian) and
`meta.json`. KEY is a hash of all that decides the tokens, so nothing in there is ever out of date;
a folder can be deleted at any time. What a disk has damaged is noticed by its hash, and made again.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ctxext.data.cache import cache_folder
from ctxext.data.sources import Piece, Source
from ctxext.data.tokens import TokenIds, encode
from ctxext.errors import CtxextError

_FORMAT = 1
_TOKENS, _ENDS, _META = "tokens.bin", "ends.bin", "meta.json"
_CHARACTERS = 512 * 1024  # tokenised at once: a tokenizer needs some 200 bytes for each token
_BLOCK = 4 * 1024 * 1024  # bytes hashed at once
_TOKENIZER = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece")


@dataclass(frozen=True, eq=False)
class TokenFile:
    """All tokens of one text, on disk.

    Attributes:
        ids: (tokens,) uint32, memory-mapped; an end-of-text token after each document.
        ends: (documents,) int64, where each document ends in `ids`.
        source: what the text is called.
        text_sha256: of the text.
        sha256: of the tokens' bytes.
        replaced: bytes of the text that were not UTF-8.
        top: the largest id.
    """

    ids: TokenIds
    ends: npt.NDArray[np.int64]
    source: str
    text_sha256: str
    sha256: str
    replaced: int
    top: int


def stored_tokens(
    source: Source, tokenizer: Any, tokenizer_sha256: str, separator: int | None, most: int = 0
) -> TokenFile:
    """The tokens of a text: from the cache, else tokenised into it, a little at a time.

    Documents longer than half a million characters are tokenised in parts cut at the ends of lines.
    Datasets of the Hub (`hf:`) can change under their name: they are tokenised anew each time.

    Args:
        source: where the text comes from.
        tokenizer: a transformers tokenizer.
        tokenizer_sha256: of the files it was loaded from (`tokenizer_digest`).
        separator: end-of-text id put after each document that lacks it; None = nothing.
        most: tokens; what comes after them is not read. 0 = all.

    Raises:
        BadInput: as `Source.pieces`.
        CtxextError: the cache folder cannot be written, or the disk is full.
    """
    root = cache_folder() / "tokens"
    state = source.state()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if state is None:
            with tempfile.TemporaryDirectory(dir=root, prefix=".once-") as once:
                _write(Path(once), source, tokenizer, separator, most)
                return _read(Path(once), source)  # the map outlives the file's name
        what = [_FORMAT, version("tokenizers"), tokenizer_sha256, separator, state]
        what += [most] if most else []
        key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]
        with _alone(root / f".{key}.lock"):
            return _kept(root / key, source, tokenizer, separator, most)
    except OSError as error:
        raise CtxextError(
            f"tokens cannot be kept in {root}: {error.strerror or error}",
            "free some space, or set CTXEXT_CACHE to another folder",
        ) from error


def tokenizer_digest(folder: Path) -> str:
    """Hash of the names and bytes of all files in a checkpoint that decide its tokens."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        own = path.name.startswith(_TOKENIZER) or path.suffix in (".model", ".tiktoken", ".py")
        if own and path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.name} {content}\n".encode())
    return digest.hexdigest()


def _kept(
    folder: Path, source: Source, tokenizer: Any, separator: int | None, most: int
) -> TokenFile:
    try:
        return _read(folder, source)
    except (OSError, ValueError, KeyError):
        shutil.rmtree(folder, ignore_errors=True)
    staging = folder.with_name(f".new-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process: we hold its lock now
    staging.mkdir()
    try:
        _write(staging, source, tokenizer, separator, most)
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return _read(folder, source)


def _write(folder: Path, source: Source, tokenizer: Any, separator: int | None, most: int) -> None:
    digest, ends, at, top, last = hashlib.sha256(), [], 0, 0, -1
    begun = 0  # where the document at hand began

    with (folder / _TOKENS).open("wb") as file:

        def put(ids: list[int]) -> None:
            nonlocal at, top, last
            data = np.array(ids, dtype="<u4").tobytes()
            file.write(data)
            digest.update(data)
            at, top, last = at + len(ids), max(top, max(ids)), ids[-1]

        def end_document() -> None:
            nonlocal begun
            if at > begun:
                if separator is not None and last != separator:
                    put([separator])
                ends.append(at)
                begun = at

        for piece in source.pieces():
            if not piece.continues:
                end_document()
            for part in _parts(piece):
                ids = encode(tokenizer, part)
                if most:
                    ids = ids[: most - at]
                if ids:
                    put(ids)
            if at == most:  # never with 0: an empty piece is no piece
                break
        end_document()
        _flush(file)
    lasts = np.array(ends, dtype="<i8").tobytes()
    with (folder / _ENDS).open("wb") as file:
        file.write(lasts)
        _flush(file)
    meta = {
        "text_sha256": source.sha256,
        "sha256": digest.hexdigest(),
        "replaced": source.replaced,
        "top": top,
        "ends_sha256": hashlib.sha256(lasts).hexdigest(),
    }
    text = json.dumps(meta).encode()
    with (folder / _META).open("wb") as file:
        file.write(text + b"\n" + hashlib.sha256(text).hexdigest().encode())
        _flush(file)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read(folder: Path, source: Source) -> TokenFile:
    """What `_write` left; each file is compared with its hash.

    Raises:
        OSError, ValueError, KeyError: a file is missing or damaged.
    """
    text, _, own = (folder / _META).read_bytes().partition(b"\n")
    lasts = (folder / _ENDS).read_bytes()
    digest = hashlib.sha256()
    with (folder / _TOKENS).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if hashlib.sha256(text).hexdigest().encode() != own:
        raise ValueError(f"{_META} is damaged")
    meta = json.loads(text)
    if hashlib.sha256(lasts).hexdigest() != meta["ends_sha256"]:
        raise ValueError(f"{_ENDS} is damaged")
    if digest.hexdigest() != meta["sha256"]:
        raise ValueError(f"{_TOKENS} is damaged")
    ends = np.frombuffer(lasts, dtype="<i8")
    ids = np.memmap(folder / _TOKENS, dtype="<u4", mode="r")
    return TokenFile(
        ids, ends, source.name, str(meta["text_sha256"]), str(meta["sha256"]),
        int(meta["replaced"]), int(meta["top"]),
    )  # fmt: skip


def _parts(piece: Piece) -> Iterator[Piece]:
    """A piece in parts of about half a million characters, cut after a line where there is one."""
    text, start, continues = piece.text, 0, piece.continues
    while len(text) - start > _CHARACTERS:
        stop = start + _CHARACTERS
        cut = text.rfind("\n", start, stop) + 1
        cut = cut if cut > start else (text.rfind(" ", start, stop) or stop)
        cut = cut if cut > start else stop
        yield Piece(text[start:cut], continues)
        start, continues = cut, True
    yield Piece(text[start:], continues)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process makes the same tokens; the lock ends with the process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
