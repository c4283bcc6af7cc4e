"""Know the keys by which code outside transformers says what turns and how fast."""

from collections.abc import Mapping
from typing import Any, Final

from ctxext.checkpoints.config.rope_families import PARTIAL_KEY, ROTARY_DIMS_KEY, THETA_KEY
from ctxext.checkpoints.config.rotation import Rope
from ctxext.errors import shown

_SHARES: Final = ("rope_pct", "rotary_pct", "rotary_percentage", "rotary_emb_fraction")
_RATIOS: Final = ("rope_ratio", "rope_condense_ratio")
WORDS_OF_CODE: Final = (*_SHARES, *_RATIOS, "rotary_dim", "kv_channels")


def unread_words(config: Mapping[str, Any], rope: Rope, model_type: str, where: str) -> list[str]:
    """Name keys that say something else than a known family's class, which does not read them.

    The code that a checkpoint was trained with may have read them, and other engines do.
    """
    spec, read = rope.spec, _read_by_class(model_type)
    meant = {
        **dict.fromkeys(_SHARES, spec.rotary_dim / rope.head_dim),
        **dict.fromkeys(_RATIOS, 1),
        "rotary_dim": spec.rotary_dim,
        **dict.fromkeys(("rope_theta", "rotary_emb_base"), rope.block.rope_theta),
    }
    return [
        f"{where}: {key} says {shown(config[key])}, and transformers does not read it for "
        f"{model_type}: other code may turn by it"
        for key, value in meant.items()
        if key not in read and config.get(key) not in (None, value)
    ]


def _read_by_class(model_type: str) -> set[str]:
    """List what the class reads of them, each under the one name that it knows."""
    tables = PARTIAL_KEY, ROTARY_DIMS_KEY
    named = {table[model_type] for table in tables if model_type in table}
    return {THETA_KEY.get(model_type, "rope_theta"), *named}
