"""Tell whether a checkpoint that ties its head stores another one, without numbers in memory."""

from collections.abc import Mapping
from typing import Any, Final

from ctxext.checkpoints.weights.files import Weights, tied_head

_CHUNK: Final = 2**20  # bytes compared at a time


def has_parted_head(weights: Weights, config: Mapping[str, Any]) -> bool:
    """Tell whether the config ties head and embedding, and both are stored and differ.

    transformers 5 then reads two matrices; transformers 4, vLLM and llama.cpp drop the head.
    Matrices of unlike shape or dtype are not compared.
    """
    held = weights.tensors
    if not tied_head(config) or weights.head not in held or weights.embedding not in held:
        return False
    (file, one), (other_file, other) = held[weights.head], held[weights.embedding]
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    left = one.end - one.start
    with (
        (weights.folder / file).open("rb") as ours,
        (weights.folder / other_file).open("rb") as its,
    ):
        ours.seek(weights.shards[file].data_start + one.start)
        its.seek(weights.shards[other_file].data_start + other.start)
        while left > 0:
            size = min(_CHUNK, left)
            if ours.read(size) != its.read(size):
                return True
            left -= size
    return False


def parted_note(weights: Weights) -> str:
    """Say what readers make of two matrices that the config calls one."""
    return (
        f"the config says tie_word_embeddings, and {weights.head} is stored and is not the "
        "embedding: transformers 5 reads both, and transformers 4, vLLM and llama.cpp drop the head"
    )
