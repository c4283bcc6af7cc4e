"""Read chosen documents of a token file as one stream, and of it only what is asked for."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ctxext.data.tokens import TokenIds
from ctxext.errors import BadInput


@dataclass(frozen=True, eq=False)
class DocumentStream:
    """Documents one after the other, as if they were copied into one array.

    Attributes:
        ids: all tokens of a file, (tokens,); may be memory-mapped.
        starts: where each chosen document begins in `ids`, (documents,).
        ends: where each ends in the stream, (documents,), ascending.
    """

    ids: TokenIds
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, span: slice) -> TokenIds:
        """Copy tokens `span.start` .. `span.stop - 1` of the stream."""
        first, last, _ = span.indices(len(self))
        out = np.empty(max(last - first, 0), dtype=np.uint32)
        document = int(np.searchsorted(self.ends, first, side="right"))
        at = first
        while at < last:
            begin = int(self.ends[document - 1]) if document else 0
            upto = min(last, int(self.ends[document]))
            place = int(self.starts[document]) + at - begin
            out[at - first : upto - first] = self.ids[place : place + upto - at]
            at, document = upto, document + 1
        return out

    def begins(self, first: int, last: int) -> npt.NDArray[np.bool_]:
        """Mark where in tokens [first, last) of the stream a document begins, (last - first,)."""
        marks = np.zeros(last - first, dtype=np.bool_)
        low, high = np.searchsorted(self.ends, (first, last), side="left")
        marks[self.ends[low:high] - first] = True
        if first == 0 and last > 0:
            marks[0] = True
        return marks


def choose_documents(
    ids: TokenIds,
    ends: npt.NDArray[np.int64],
    *,
    min_tokens: int = 0,
    max_tokens: int = 0,
    name: str = "--data",
) -> DocumentStream:
    """Choose the documents of a token file by bounds on their length, in the file's order.

    Args:
        ids: all tokens, (tokens,).
        ends: where each document ends in `ids`, (documents,); its end-of-text token counts.
        min_tokens, max_tokens: bounds, both included; 0 = none.
        name: what the text is called in an error.

    Raises:
        BadInput: no document is left; the message says how many there were, and how long.
    """
    starts = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]])
    lengths = ends - starts
    kept = lengths >= min_tokens
    if max_tokens:
        kept &= lengths <= max_tokens
    if not kept.any():
        bounds = [f"min_tokens {min_tokens}"] if min_tokens else []
        bounds += [f"max_tokens {max_tokens}"] if max_tokens else []
        raise BadInput(
            f"{name}: {' and '.join(bounds)} leaves none of its {len(ends)} documents; the longest "
            f"has {int(lengths.max(initial=0))} tokens, the shortest {int(lengths.min(initial=0))}",
            "change the bounds, or give other documents",
        )
    return DocumentStream(ids, starts[kept], np.cumsum(lengths[kept]))
