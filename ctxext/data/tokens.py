"""Documents to token ids."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxext.data.sources import Piece, Source
from ctxext.errors import BadInput

TokenIds = npt.NDArray[np.uint32]
ByteEnds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Tokenised documents (uint32 arrays), and what they were read from.

    `ends` has, for each document, where each token ends in its text, in bytes of UTF-8; None where
    the tokenizer cannot say, or was not asked.
    """

    documents: tuple[TokenIds, ...]
    source: str
    sha256: str
    replaced: int
    ends: tuple[ByteEnds, ...] | None = None

    @property
    def tokens(self) -> int:
        return sum(len(document) for document in self.documents)

    def stream(self, separator: int | None) -> TokenIds:
        """All documents in one array, `separator` (an end-of-text id) after each that lacks it."""
        parts: list[TokenIds] = []
        for document in self.documents:
            parts.append(document)
            if separator is not None and (not len(document) or document[-1] != separator):
                parts.append(np.array([separator], dtype=np.uint32))
        return np.concatenate(parts)


def tokenize(
    source: Source, tokenizer: Any, *, limit: int | None = None, with_ends: bool = False
) -> Corpus:
    """Tokenise a source's documents as the tokenizer does by itself (BOS only if it adds one).

    Args:
        source: where the text comes from.
        tokenizer: a transformers tokenizer.
        limit: stop after this many tokens; no more text than needed is read.
        with_ends: also find where in its text each token ends (fast tokenizers only).

    Raises:
        BadInput: as `Source.pieces`.
    """
    with_ends = with_ends and tokenizer.is_fast
    documents: list[list[TokenIds]] = []
    ends: list[list[ByteEnds]] = []
    read = 0  # bytes of the document so far
    left = limit
    for piece in source.pieces():
        ids, places = _encode(tokenizer, piece, left, with_ends=with_ends)
        if not piece.continues or not documents:
            documents.append([])
            ends.append([])
            read = 0
        documents[-1].append(ids)
        if places is not None:
            ends[-1].append(places + read)
            read += _size(piece.text)
        if left is not None:
            left -= len(ids)
            if left <= 0:
                break
    kept = [index for index, parts in enumerate(documents) if any(len(part) for part in parts)]
    return Corpus(
        tuple(np.concatenate(documents[index]) for index in kept),
        source.name,
        source.sha256,
        source.replaced,
        tuple(np.concatenate(ends[index]) for index in kept) if with_ends else None,
    )


def _encode(
    tokenizer: Any, piece: Piece, limit: int | None, *, with_ends: bool
) -> tuple[TokenIds, ByteEnds | None]:
    # Tokenising a prefix gives the same first tokens, except near its end: keep a margin.
    text, margin = piece.text, 64
    if limit is not None:
        size = 8 * (limit + margin)
        while size < len(piece.text):
            ids, ends = _tokens(tokenizer, piece.text[:size], piece.continues, with_ends=with_ends)
            if len(ids) >= limit + margin:
                return ids[:limit], None if ends is None else ends[:limit]
            size *= 2
    ids, ends = _tokens(tokenizer, text, piece.continues, with_ends=with_ends)
    return ids[:limit], None if ends is None else ends[:limit]


def encode(tokenizer: Any, piece: Piece) -> list[int]:
    """Token ids of a piece; only a document's first one gets the tokenizer's special tokens."""
    return _ids(tokenizer, piece.text, piece.continues)


def _tokens(
    tokenizer: Any, text: str, continues: bool, *, with_ends: bool
) -> tuple[TokenIds, ByteEnds | None]:
    if not with_ends:
        return np.array(_ids(tokenizer, text, continues), dtype=np.uint32), None
    encoded = tokenizer(
        text, add_special_tokens=not continues, verbose=False, return_offsets_mapping=True
    )
    ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 1]
    # Special tokens end at 0, and the parts of one character all at its end.
    ends = np.maximum.accumulate(ends) if len(ends) else ends
    return np.array(encoded["input_ids"], dtype=np.uint32), _byte_ends(text)[ends]


def _byte_ends(text: str) -> ByteEnds:
    """(characters + 1,): how many bytes the first n characters take."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    sizes = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _size(text: str) -> int:
    return len(text.encode("utf-8", errors="surrogatepass"))


def _ids(tokenizer: Any, text: str, continues: bool) -> list[int]:
    # verbose=False: "longer than the maximum length" is no news in a tool that extends it.
    encoded = tokenizer(text, add_special_tokens=not continues, verbose=False)
    return list(encoded["input_ids"])


def check_vocabulary(corpus: Corpus, embeddings: int) -> None:
    """Every id has a row in the embedding.

    Raises:
        BadInput: the tokenizer knows more tokens than the model.
    """
    check_top(max((int(document.max()) for document in corpus.documents), default=0), embeddings)


def check_top(top: int, embeddings: int) -> None:
    """As `check_vocabulary`, of the largest id alone."""
    if top >= embeddings:
        raise BadInput(
            f"the tokenizer gives token {top}, and the model has {embeddings} embeddings",
            "the tokenizer belongs to another checkpoint",
        )
