"""Turn documents into token ids."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ctxext.checkpoints.live.tokenizer import tokenizer_errors
from ctxext.data.sources import Piece, Source
from ctxext.errors import BadInput

TokenIds = npt.NDArray[np.uint32]
TokenSizes = npt.NDArray[np.uint32]
"""(tokens,): how many bytes of text (UTF-8) each token stands for."""


class Tokens(Protocol):
    """Token ids in memory, or in a file of which only what is asked for is read."""

    def __len__(self) -> int: ...

    def __getitem__(self, span: slice, /) -> TokenIds: ...


@dataclass(frozen=True)
class Corpus:
    """Tokenised documents (uint32 arrays), and what they were read from."""

    documents: tuple[TokenIds, ...]
    source: str
    sha256: str
    replaced: int
    empty: int = 0

    @property
    def tokens(self) -> int:
        return sum(len(document) for document in self.documents)


def tokenize(source: Source, tokenizer: Any, *, limit: int | None = None) -> Corpus:
    """Tokenise a source's documents in memory, where they are small and read once.

    Args:
        tokenizer: a transformers tokenizer.
        limit: stop after this many tokens; no more text than needed is read.

    Raises:
        BadInput: as `Source.pieces`.
    """
    documents: list[list[TokenIds]] = []
    left = limit
    for piece in source.pieces():
        ids, _ = encode(tokenizer, piece, left)
        if not piece.continues or not documents:
            documents.append([])
        documents[-1].append(ids)
        if left is not None:
            left -= len(ids)
            if left <= 0:
                break
    kept = [pieces for pieces in documents if any(map(len, pieces))]
    return Corpus(
        tuple(np.concatenate(pieces) for pieces in kept),
        source.name,
        source.sha256,
        source.replaced,
        source.empty,
    )


def encode(
    tokenizer: Any, piece: Piece, limit: int | None = None, *, with_sizes: bool = False
) -> tuple[TokenIds, TokenSizes | None]:
    """Tokenise a piece as the tokenizer does by itself (BOS only if it adds one).

    Only a document's first piece gets the tokenizer's special tokens.

    Args:
        tokenizer: a transformers tokenizer.
        limit: give the first so many tokens, and tokenise little more; None = all.
        with_sizes: also say how many bytes of text each token stands for (fast tokenizers only).
    """
    # Tokenising a prefix gives the same first tokens, except near its end: keep a margin.
    text, margin = piece.text, 64
    if limit is not None:
        size = 8 * (limit + margin)
        while size < len(piece.text):
            ids, sizes = _tokens(tokenizer, text[:size], piece.continues, with_sizes=with_sizes)
            if len(ids) >= limit + margin:
                return ids[:limit], None if sizes is None else sizes[:limit]
            size *= 2
    ids, sizes = _tokens(tokenizer, text, piece.continues, with_sizes=with_sizes)
    return ids[:limit], None if sizes is None else sizes[:limit]


def _tokens(
    tokenizer: Any, text: str, continues: bool, *, with_sizes: bool
) -> tuple[TokenIds, TokenSizes | None]:
    # verbose=False: "longer than the maximum length" is no news in a tool that extends it.
    with tokenizer_errors("the checkpoint"):
        encoded = tokenizer(
            text, add_special_tokens=not continues, verbose=False, return_offsets_mapping=with_sizes
        )
    ids = np.array(encoded["input_ids"], dtype=np.uint32)
    if not with_sizes:
        return ids, None
    ends = np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)[:, 1]
    # Special tokens end at 0, and the parts of one character all at its end.
    ends = np.maximum.accumulate(ends) if len(ends) else ends
    return ids, np.diff(_byte_ends(text)[ends], prepend=0).astype(np.uint32)


def _byte_ends(text: str) -> npt.NDArray[np.int64]:
    """Count the bytes that the first n characters take, (characters + 1,)."""
    codes = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    sizes = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def check_top(top: int, embeddings: int) -> None:
    """Check that the largest id of a text has a row in the embedding.

    Raises:
        BadInput: the tokenizer knows more tokens than the model.
    """
    if top >= embeddings:
        raise BadInput(
            f"the tokenizer gives token {top}, and the model has {embeddings} embeddings",
            "the tokenizer belongs to another checkpoint",
        )
