"""A checkpoint opened for reading: where it is, its config, and how it encodes position."""

from dataclasses import dataclass
from typing import Any

from ctxext.checkpoints.detect import Position, detect
from ctxext.checkpoints.folder import CONFIG, Source, find_checkpoint, read_config
from ctxext.checkpoints.rope_block import Dialect
from ctxext.checkpoints.weights import stale_weights, stray_adapter
from ctxext.release.provenance import origin_of


@dataclass(frozen=True)
class Opened:
    """A checkpoint's folder, parsed config.json, detected position encoding, and warnings."""

    source: Source
    config: dict[str, Any]
    position: Position
    warnings: tuple[str, ...]


def open_checkpoint(
    model: str,
    *,
    revision: str | None = None,
    original_length: int | None = None,
    prefer: Dialect | None = None,
    weights: bool = True,
) -> Opened:
    """Find a checkpoint and read its config; see `find_checkpoint` and `detect` for the errors."""
    source = find_checkpoint(model, revision=revision, weights=weights)
    config, warnings = read_config(source)
    origin = origin_of(source.folder, warnings)
    position = detect(
        config,
        where=f"{source.name}/{CONFIG}",
        original_length=original_length,
        prefer=prefer,
        origin=origin,
    )
    stray = stale_weights(source.folder) + stray_adapter(source.folder)
    return Opened(source, config, position, (*warnings, *position.warnings, *stray))
