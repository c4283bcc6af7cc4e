"""The text of a perplexity as each checkpoint's tokenizer cuts it."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctxext.checkpoints.folder import CONFIG
from ctxext.checkpoints.opened import Opened
from ctxext.checkpoints.provenance import sha256_of
from ctxext.data.cache import check_cache_folder
from ctxext.data.sources import Source
from ctxext.data.store import TokenFile, stored_tokens, tokenizer_digest
from ctxext.data.tokens import Tokens, check_top
from ctxext.errors import BadInput
from ctxext.evaluation.reading.windows import readable
from ctxext.evaluation.session import Loading
from ctxext.runs.numbers import whole

if TYPE_CHECKING:  # torch would come with it, and be loaded before the text is looked at
    from ctxext.evaluation.perplexity.blocks import Grid
    from ctxext.evaluation.perplexity.key_tokens import Mask


@dataclass
class Texts:
    """One text, tokenised once for all checkpoints with the same tokenizer.

    Attributes:
        data, field: the text, as `--data` and `--field`.
        limit: read only the first so many tokens; 0 = all.
        longest: tokens; documents that do not fill a window of these are not read.
    """

    data: str
    field: str
    limit: int
    longest: int
    loading: Loading
    _known: dict[str, TokenFile] = dataclasses.field(default_factory=dict)

    def read(self, checkpoints: Sequence[Opened]) -> None:
        """Tokenise for every checkpoint: too little text, or a foreign tokenizer, is said now.

        Raises:
            BadInput: as `of`; a token that the model has no embedding for.
            CtxextError: stored tensors that are not the model's.
        """
        Source(self.data, self.field).check()
        check_cache_folder()
        for checkpoint in checkpoints:
            embeddings = self.loading.check_weights(checkpoint)
            check_top(self.of(checkpoint).top, embeddings)

    def of(self, checkpoint: Opened) -> TokenFile:
        """Give all documents, tokenised.

        Raises:
            BadInput: none fills the longest window.
        """
        key = self._key(checkpoint)
        if key not in self._known:
            file = stored_tokens(
                Source(self.data, self.field), self.loading.tokenizer_of(checkpoint),
                tokenizer_digest(checkpoint.tokens_from.folder), None, self.limit, with_sizes=True,
            )  # fmt: skip
            readable(file.lengths, self.longest, source=file.source)
            self._known[key] = file
        return self._known[key]

    def readable(self, checkpoint: Opened) -> tuple[list[Tokens], list[Tokens] | None]:
        """Give the documents that fill the longest window, and the bytes of each token's text."""
        file = self.of(checkpoint)
        chosen = self._chosen(checkpoint)
        sizes: list[Tokens] = [each for i in chosen if (each := file.sizes_of(i)) is not None]
        return [file.document(i) for i in chosen], sizes or None

    def bos_of(self, checkpoint: Opened) -> int:
        """Give the token that a tokenizer has for the beginning of a text.

        Raises:
            BadInput: it has none.
        """
        name = checkpoint.tokens_from.name
        bos = self.loading.tokenizer_of(checkpoint).bos_token_id
        if not isinstance(bos, int):
            raise BadInput(
                f"--bos every-window: the tokenizer of {name} has no BOS token",
                "leave out --bos: tools that have none for this model begin windows without it",
            )
        rows = whole(checkpoint.config, "vocab_size", f"{checkpoint.source.name}/{CONFIG}")
        check_top(bos, rows or 2**31)
        return bos

    def carried(
        self, reference: Opened, masks: Sequence["Mask"], checkpoint: Opened
    ) -> list["Mask"]:
        """Turn key tokens of a reference's documents into tokens of another checkpoint."""
        from ctxext.evaluation.perplexity.key_tokens import carried_over

        if self._key(reference) == self._key(checkpoint):
            return list(masks)
        theirs, ours = self.of(reference), self.of(checkpoint)
        known = dict(zip(self._chosen(reference), masks, strict=True))
        out = []
        for index in self._chosen(checkpoint):
            mask, from_sizes, to_sizes = (
                known.get(index), theirs.sizes_of(index), ours.sizes_of(index)
            )  # fmt: skip
            if from_sizes is None or to_sizes is None:
                raise BadInput(  # check_comparable has said it
                    "--key-tokens needs fast tokenizers to compare two of them"
                )
            if mask is None:  # too short for the reference's window
                out.append(np.zeros(len(to_sizes), dtype=bool))
            else:
                out.append(carried_over(mask, from_sizes, to_sizes))
        return out

    def check_comparable(self, checkpoints: Sequence[Opened]) -> None:
        """Make sure that key tokens can be carried from one checkpoint's tokens to another's.

        Raises:
            BadInput: tokenizers differ, and one of them cannot say where its tokens stand.
        """
        if len({self._key(each) for each in checkpoints}) == 1:
            return
        for each in checkpoints:
            if self.of(each).sizes is None:
                raise BadInput(
                    f"--key-tokens: the tokenizer of {each.source.name} is not another's, and "
                    "cannot say where its tokens stand in the text (it is a slow one)",
                    "convert it: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
                )

    def grid(self, checkpoint: Opened, step: int) -> "Grid":
        """Cut what is read into blocks, for windows that are `step` tokens apart."""
        from ctxext.evaluation.perplexity.blocks import Grid

        documents, _ = self.readable(checkpoint)
        return Grid.of(documents, step, f"{self.of(checkpoint).sha256} {self._chosen(checkpoint)}")

    def state(self, checkpoint: Opened) -> str:
        """Name what the numbers depend on, for the journal."""
        file = self.of(checkpoint)
        chosen = hashlib.sha256(str(self._chosen(checkpoint)).encode()).hexdigest()
        return f"{self._key(checkpoint)} {file.text_sha256} {file.sha256} {chosen}"

    def _chosen(self, checkpoint: Opened) -> list[int]:
        file = self.of(checkpoint)
        return readable(file.lengths, self.longest, source=file.source)

    def _key(self, checkpoint: Opened) -> str:
        folder = checkpoint.tokens_from.folder
        return sha256_of(folder / "tokenizer.json") or str(folder.resolve())
