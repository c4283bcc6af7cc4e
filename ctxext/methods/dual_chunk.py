"""Dual chunk attention: the rope stays, and an engine folds far distances back into the window."""

from typing import Final

from ctxext.encodings.rope import RopeSpec
from ctxext.errors import BadInput
from ctxext.methods._base import by_base
from ctxext.methods._registry import RopeExtension, method

CONFIG_KEY: Final = "dual_chunk_attention_config"


@method(
    formula="inv_freq' = inv_freq; distances beyond local_size are counted within chunk_size",
    applies_to=("rope", "partial-rope"),
    paper="An et al., Dual Chunk Attention, arXiv:2402.17463",
    training="none, it is made for use without training",
    rope_type="default",
    since="any",
    top_key=CONFIG_KEY,
    told_apart=False,
)
def dual_chunk(
    spec: RopeSpec,
    target: int,
    *,
    chunk_size: int | None = None,
    local_size: int | None = None,
) -> RopeExtension:
    """Leave the rope as it was trained, and ask the engine for dual chunk attention.

    Keys count their position within a chunk of n = chunk_size - local_size tokens; queries count
    theirs so that the distance to a key of the same chunk is exact, to the chunk before as well for
    `local_size` tokens, and to farther ones a constant below `chunk_size`. No frequency changes;
    the work is done by the engine's attention, and only where it has such a one: SGLang, and vLLM
    from 0.8.5 to 0.10. Everywhere else, in transformers too, the checkpoint is unscaled.
    ctxext's own evaluations run it by its formula.

    Args:
        spec: trained window L in tokens.
        target: window to reach, tokens.
        chunk_size: None: 3/4 L, as the authors. Qwen2.5-1M has L itself.
        local_size: exact distances across a chunk's border; None: L/8, as the authors.

    Returns:
        `inv_freq` (d/2,) as it is; `attention_factor` 1.

    Raises:
        BadInput: not 0 < local_size < chunk_size <= L.
    """
    window = spec.original_max_position_embeddings
    chunk = 3 * window // 4 if chunk_size is None else int(chunk_size)
    local = window // 8 if local_size is None else int(local_size)
    if not 0 < local < chunk <= window:
        raise BadInput(
            f"dual-chunk needs 0 < local_size < chunk_size <= {window}, the trained window, and "
            f"got {local} and {chunk}"
        )
    sizes = {"chunk_size": chunk, "local_size": local}
    beside = {CONFIG_KEY: {**sizes, "original_max_position_embeddings": window}}
    return by_base(
        spec, target, spec.rope_theta, {"factor": target / window, **sizes}, beside=beside
    )
