"""Documents to token ids."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ctxext.data.sources import Piece, Source
from ctxext.errors import BadInput

TokenIds = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Corpus:
    """Tokenised documents (uint32 arrays), and what they were read from."""

    documents: tuple[TokenIds, ...]
    source: str
    sha256: str
    replaced: int

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


def tokenize(source: Source, tokenizer: Any, *, limit: int | None = None) -> Corpus:
    """Tokenise a source's documents as the tokenizer does by itself (BOS only if it adds one).

    Args:
        source: where the text comes from.
        tokenizer: a transformers tokenizer.
        limit: stop after this many tokens; no more text than needed is read.

    Raises:
        BadInput: as `Source.pieces`.
    """
    documents: list[list[int]] = []
    left = limit
    for piece in source.pieces():
        ids = _encode(tokenizer, piece, left)
        if piece.continues and documents:
            documents[-1] += ids
        else:
            documents.append(ids)
        if left is not None:
            left -= len(ids)
            if left <= 0:
                break
    arrays = tuple(np.array(d, dtype=np.uint32) for d in documents if d)
    return Corpus(arrays, source.name, source.sha256, source.replaced)


def _encode(tokenizer: Any, piece: Piece, limit: int | None) -> list[int]:
    # Tokenising a prefix gives the same first tokens, except near its end: keep a margin.
    text, margin = piece.text, 64
    if limit is not None:
        size = 8 * (limit + margin)
        while size < len(piece.text):
            ids = _ids(tokenizer, piece.text[:size], piece.continues)
            if len(ids) >= limit + margin:
                return ids[:limit]
            size *= 2
    ids = _ids(tokenizer, text, piece.continues)
    return ids if limit is None else ids[:limit]


def encode(tokenizer: Any, piece: Piece) -> list[int]:
    """Token ids of a piece; only a document's first one gets the tokenizer's special tokens."""
    return _ids(tokenizer, piece.text, piece.continues)


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
