"""Where each family's queries get their scale: the last tensor with numbers of its own before they
turn, and which of its rows turn.

Measured on transformers 5.23 and 5.24: logits of the attention factor in the config, and in these
tensors, are the same to rounding (`tests/checkpoints/test_fold.py`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Layout = Literal["heads", "then-keys", "grouped"]
"""Rows of a tensor: heads of queries alone; all of them, then keys and values; or groups of one key
and one value head after the queries that share them."""


@dataclass(frozen=True)
class Queries:
    """The tensor of a layer that scales its queries.

    Attributes:
        name: below the layer, without `.weight` and `.bias`.
        layout: of its rows.
        one_plus: a norm whose scale is 1 + what is stored.
    """

    name: str = "self_attn.q_proj"
    layout: Layout = "heads"
    one_plus: bool = False

    @property
    def is_norm(self) -> bool:
        """Whether it is a norm of them, with a number for each dim of one head or of all."""
        return "norm" in self.name

    def turning(self, heads: Sequence[int | None], head_dim: int, rotary_dim: int) -> list[bool]:
        """Tell which rows are of dims of a query that turn.

        Args:
            heads: of the rows of a tensor, as `heads` tells them.
            rotary_dim: dims of a head that turn, the first of them.
        """
        return [head is not None and r % head_dim < rotary_dim for r, head in enumerate(heads)]

    def heads(self, rows: int, head_dim: int, kv_heads: int) -> list[int | None] | None:
        """Tell the query head of every row, from 0; None = a row of keys or values.

        Returns:
            (rows,), all 0 for a norm that all heads share; None where they do not fit the heads.
        """
        count, rest = divmod(rows, head_dim)
        if rest or not count:
            return None
        still = [None]
        if self.layout == "heads":
            order: list[int | None] = list(range(count))
        elif self.layout == "then-keys":
            queries = count - 2 * kv_heads
            if queries <= 0:
                return None
            order = [*range(queries), *still * 2 * kv_heads]
        else:
            group, rest = divmod(count, kv_heads)
            if rest or group < 3:
                return None
            order = []
            for first in range(0, kv_heads * (group - 2), group - 2):
                order += [*range(first, first + group - 2), *still * 2]
        return [head for head in order for _ in range(head_dim)]


QUERIES: Final[dict[str, Queries]] = {
    **dict.fromkeys(
        (
            "arcee", "aria_text", "bitnet", "cohere", "cwm", "diffllama", "ernie4_5",
            "ernie4_5_moe", "falcon_h1", "gemma", "gemma2", "glm", "glm4", "glm4_moe", "gpt_oss",
            "granite", "granite_swa", "granitemoe", "granitemoe_swa", "granitemoeshared", "helium",
            "hyperclovax", "internlm3", "iquestcoder", "jais2", "llama", "minimax", "ministral",
            "ministral3", "mistral", "mixtral", "nemotron", "olmo", "phi", "qwen2", "qwen2_moe",
            "seed_oss", "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma",
        ),
        Queries(),
    ),
    **dict.fromkeys(
        (
            "apertus", "doge", "dots1", "flex_olmo", "hy_v3", "laguna", "mellum", "minimax_m2",
            "olmo2", "olmo3", "olmo_hybrid", "olmoe", "qwen3", "qwen3_moe",
        ),
        Queries("self_attn.q_norm"),
    ),
    **dict.fromkeys(
        (
            "gemma3_text", "minimax_m3_vl_text", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next",
        ),
        Queries("self_attn.q_norm", one_plus=True),
    ),
    **dict.fromkeys(("fuyu", "lfm2", "lfm2_moe", "persimmon"), Queries("self_attn.q_layernorm")),
    **dict.fromkeys(("phi3", "phi4_multimodal"), Queries("self_attn.qkv_proj", "then-keys")),
    "falcon": Queries("self_attention.query_key_value", "grouped"),
    "gpt_neox": Queries("attention.query_key_value", "grouped"),
    "modernbert-decoder": Queries("attn.q_proj"),
}  # fmt: skip
"""By `model_type`; of others it was not measured."""

STILL_QUERIES: Final[dict[str, Queries]] = {
    **dict.fromkeys(("granitemoehybrid", "jamba"), Queries()),
    "ctxext_lab": Queries(),
    "nemotron_h": Queries("mixer.q_proj"),
}
"""The same, of types whose attention is told no positions: `tests/training/test_temperature.py`."""

# The decoder's layers, and not those of a vision or audio part.
_LAYER: Final = re.compile(
    r"(?:(?:model|language_model|text_model|transformer|gpt_neox|decoder|backbone)\.)*"
    r"(?:layers|h)\.(\d+)\.(.+)"
)
# A norm of queries is one more tensor that could scale them.
_OTHER_NORM: Final = re.compile(r"\b(?:q_norm|qk_norm|q_layernorm|query_layernorm)\b")


def by_layer(names: Iterable[str]) -> Iterator[tuple[int, str, str]]:
    """Yield (layer, name below it, whole name) of the decoder's tensors."""
    for name in names:
        if match := _LAYER.fullmatch(name):
            yield int(match[1]), match[2], name


def another_norm(below: str, queries: Queries) -> bool:
    """Tell whether a tensor norms queries after the one that is known of the family."""
    return bool(_OTHER_NORM.search(below)) and not below.startswith(queries.name)
