"""Open a checkpoint for reading: where it is, its config, and how it encodes position."""

from dataclasses import dataclass
from typing import Any

from ctxext.checkpoints.config.detect import Position, detect
from ctxext.checkpoints.config.rope_block import Dialect
from ctxext.checkpoints.folder import (
    CONFIG,
    Source,
    find_checkpoint,
    find_tokenizer,
    read_config,
)
from ctxext.checkpoints.live.tokenizer import check_fits, load_tokenizer
from ctxext.checkpoints.provenance import origin_of, sha256_of
from ctxext.checkpoints.weights.files import sample_sha256, stale_weights, stray_adapter
from ctxext.choices import check_word
from ctxext.errors import about
from ctxext.runs.numbers import whole
from ctxext.runs.output import MARK
from ctxext.runs.rows.row import Identity


@dataclass(frozen=True)
class Opened:
    """A checkpoint's folder, parsed config.json, detected position encoding, and warnings.

    `tokenizer`: where another tokenizer lies, if one was named (`--tokenizer`).
    """

    source: Source
    config: dict[str, Any]
    position: Position
    warnings: tuple[str, ...]
    tokenizer: Source | None = None

    @property
    def tokens_from(self) -> Source:
        """Where the tokenizer that reads its texts lies: the one that was named, or its own."""
        return self.tokenizer or self.source

    @property
    def identity(self) -> Identity:
        """Which checkpoint it is, as a row of a measurement notes it."""
        rope = self.position.rope
        return Identity(
            sha256_of(self.source.folder / CONFIG),
            sha256_of(self.source.folder / MARK),
            rope.sha256 if rope else None,
            sample_sha256(self.source.folder),
        )


def open_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    original_length: int | None = None,
    prefer: Dialect | None = None,
    weights: bool = True,
    tokenizer: str | None = None,
    decoder: bool = False,
) -> Opened:
    """Find a checkpoint and read its config.

    Args:
        decoder: it is to be read or trained, and every token of it may see none that follows.

    Raises:
        BadInput: as `find_checkpoint` and `detect`; an encoder where a `decoder` is wanted.
    """
    if prefer is not None:
        check_word(prefer, Dialect, "--prefer")
    source = find_checkpoint(model, revision=revision, weights=weights)
    config, warnings = read_config(source)
    origin = origin_of(source.folder, warnings)
    with about(source.folder / CONFIG):
        position = detect(
            config,
            where=f"{source.name}/{CONFIG}",
            original_length=original_length,
            prefer=prefer,
            origin=origin,
        )
    if decoder and position.both_ways is not None:
        raise position.both_ways
    stray = stale_weights(source.folder) + stray_adapter(source.folder)
    other = find_tokenizer(tokenizer) if tokenizer is not None else None
    return Opened(source, config, position, (*warnings, *position.warnings, *stray), other)


def tokenizer_of(opened: Opened, *, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer that reads a checkpoint's texts.

    Raises:
        BadInput: as `load_tokenizer`; or the one that was named knows words that have no row in the
            checkpoint's embedding.
    """
    tokenizer = load_tokenizer(opened.tokens_from, trust_remote_code=trust_remote_code)
    if opened.tokenizer is not None:
        rows = whole(opened.config, "vocab_size", f"{opened.source.name}/{CONFIG}")
        check_fits(tokenizer, rows or 2**31, opened.tokenizer.name)
    return tokenizer


def tokenizer_record(opened: Opened) -> dict[str, str | None] | None:
    """Describe the tokenizer that was named in place of the checkpoint's own; None = none was."""
    other = opened.tokenizer
    return None if other is None else {"id": other.name, "revision": other.revision}
