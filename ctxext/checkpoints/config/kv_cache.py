"""Count the bytes of a KV cache, from what a config says of its layers."""

from typing import Final

from ctxext.checkpoints.config.detect import Position

CACHE_DTYPES: Final = {"float32": 4, "bfloat16": 2, "float16": 2, "8-bit": 1}
"""Bytes of a number in the dtypes that caches are kept in; 8-bit without its scales."""


def kv_bytes(position: Position, length: int, element: int) -> int | None:
    """Count the cache's bytes of one sequence; a sliding layer keeps no more than its window.

    Args:
        length: of the sequence, tokens.
        element: bytes of a number.

    Returns:
        None where it is not known of every layer.
    """
    layers = [layer for layer in position.layers if layer.attention != "linear"]
    if not layers:
        return 0
    if position.kept is None or any(layer.attention is None for layer in layers):
        return None
    tokens = sum(min(length, layer.window) if layer.window else length for layer in layers)
    return position.kept * element * tokens


def kv_bytes_by_dtype(position: Position, length: int) -> dict[str, int]:
    """Count the same for each dtype; empty where it is not known."""
    sizes = {name: kv_bytes(position, length, size) for name, size in CACHE_DTYPES.items()}
    return {name: size for name, size in sizes.items() if size is not None}
