"""What each `rope_type` of a config.json means to whoever reads it: facts, and no formula.

The list is transformers' own (`ROPE_INIT_FUNCTIONS` of `modeling_rope_utils.py`, 5.23), and what
each one reads is what its function there reads. A method (`methods/`) says which of these its
result is written as; a checkpoint may come with any of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

WindowRule = Literal["unscaled", "factor-of-original", "stated", "raised-or-not", "kept"]
Derived = Literal["never", "null", "absent"]


@dataclass(frozen=True)
class RopeType:
    """The facts of one `rope_type`.

    Attributes:
        keys: what transformers reads in the block, beside type, theta, partial factor and
            `original_max_position_embeddings`.
        original_at_top: llama.cpp, TGI and TensorRT-LLM look for the trained window at the top of
            the config, beside the block.
        derives_factor: when transformers takes claimed over trained window as the factor: where
            the key is `null`, or where it is `absent` as well.
        follows_length: frequencies depend on the length of the sequence at hand, so what one
            chunk, batch or rank computes is not what another does. A block may still be the same
            at every length: ask `follows_length`.
        blends: some pairs are a weighted sum of scaled and unscaled frequencies.
        of_whole_heads: the exponent of a frequency counts the dims of a whole head, of which only
            the first pairs turn.
        window: how the claimed window follows from the block: `stated` where the factor is a
            number of its own, or none; `kept` where `max_position_embeddings` stays the trained
            window, because it is part of the formula; `raised-or-not` where files differ in whether
            `max_position_embeddings` holds the factor already.
    """

    keys: frozenset[str] = frozenset()
    original_at_top: bool = False
    derives_factor: Derived = "never"
    follows_length: bool = False
    blends: bool = False
    of_whole_heads: bool = False
    window: WindowRule = "unscaled"

    @property
    def states_original(self) -> bool:
        """Whether transformers takes the trained window from the block."""
        return self.window in ("factor-of-original", "stated")

    @property
    def keeps_window(self) -> bool:
        """Whether `max_position_embeddings` stays the trained window, for every reader."""
        return self.window == "kept"


ROPE_TYPES: Final = {
    "default": RopeType(),
    "linear": RopeType(keys=frozenset({"factor"}), window="raised-or-not"),
    "proportional": RopeType(
        keys=frozenset({"factor"}), of_whole_heads=True, window="raised-or-not"
    ),
    "dynamic": RopeType(
        keys=frozenset({"factor"}), follows_length=True, window="kept"
    ),
    "yarn": RopeType(
        keys=frozenset(
            {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
             "truncate"}
        ),
        derives_factor="null",
        blends=True,
        window="factor-of-original",
    ),
    "llama3": RopeType(
        keys=frozenset({"factor", "low_freq_factor", "high_freq_factor"}),
        original_at_top=True,
        blends=True,
        window="stated",
    ),
    "longrope": RopeType(
        keys=frozenset({"factor", "attention_factor", "short_factor", "long_factor"}),
        original_at_top=True,
        derives_factor="absent",
        follows_length=True,
        window="stated",
    ),
}  # fmt: skip
"""By the name in the config; `su` is an old name of longrope."""


def rope_type_facts(name: object) -> RopeType:
    """Look up the facts of a `rope_type`; those of `default` for one that ctxext does not know."""
    return ROPE_TYPES.get(str(name), ROPE_TYPES["default"])


def follows_length(block: Mapping[str, Any]) -> bool:
    """Tell whether the rotation of a rope block depends on the length of the sequence at hand.

    longrope's does not where both lists are the same and the attention factor is said: one rotation
    at every length, written pair by pair.

    Args:
        block: `rope_parameters` or `rope_scaling` as in a config, not nested by layer type.
    """
    facts = rope_type_facts(block.get("rope_type", block.get("type")))
    if "long_factor" not in facts.keys:
        return facts.follows_length
    short, long = block.get("short_factor"), block.get("long_factor")
    return not short or list(short) != list(long or ()) or block.get("attention_factor") is None
