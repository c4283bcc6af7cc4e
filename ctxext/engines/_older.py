"""What the classes of some families make of a scaled rope in transformers before some release.

Measured in 4.57.6 on configs as `ctxext extend` writes them, by inv_freq and logits past the
window (`tests/e2e/test_families_in_4.py`); dbrx and llama4_text are read from their modeling files
there. Other families read in 4.57 what they read in 5.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

_EVERY: Final = frozenset({"linear", "dynamic", "yarn", "llama3", "longrope"})


@dataclass(frozen=True)
class Older:
    """What a family's class does before a release.

    Attributes:
        first: the release in which it reads the rope rightly.
        does: the older ones, as words after "older releases"; empty: said by the release alone.
        rope_types: of which it is true.
        key: only of blocks that have this key.
    """

    first: str
    does: str
    rope_types: frozenset[str] = _EVERY
    key: str | None = None

    def concerns(self, rope_type: str, keys: Collection[str]) -> bool:
        """Tell whether a block with these keys is read otherwise by older releases."""
        return rope_type in self.rope_types and (self.key is None or self.key in keys)


_TWO_FIELDS: Final = Older(
    "5", "refuse it (only linear and dynamic are known)", _EVERY - {"linear", "dynamic"}
)
_THREE_FIELDS: Final = Older(
    "5", "refuse it (an attention factor is not taken)", key="attention_factor"
)
_ALPHA: Final = Older("5", "stop at it (they look for alpha)", frozenset({"dynamic"}))
OLDER: Final[dict[str, Older]] = {
    "mistral": Older("4.48", ""),  # its class ignored rope_scaling
    "dbrx": Older("5", "ignore it"),
    "nemotron": Older("5", "ignore it"),
    "olmo": _TWO_FIELDS,
    "olmo2": _TWO_FIELDS,
    "phi3": _THREE_FIELDS,
    "phi4_multimodal": _THREE_FIELDS,
    "hunyuan_v1_dense": _ALPHA,
    "hunyuan_v1_moe": _ALPHA,
    "llama4_text": Older("5", "refuse it (only llama3 is known)", _EVERY - {"llama3"}),
    "deepseek_v2": Older(
        "5", "leave its temperature out of the scores", frozenset({"yarn"}), key="mscale_all_dim"
    ),
    "olmo3": Older("5", "turn windowed layers by the new base too", frozenset({"default"})),
    "modernbert-decoder": Older(
        "5", "ignore it (their keys for the two kinds of layers are others)", _EVERY | {"default"}
    ),
}
"""By `model_type`; `default` is a new base without any scaling."""


def older_release(model_type: str, rope_type: str, keys: Collection[str] = ()) -> Older | None:
    """Look up what older transformers make of a rope block; None: what 5 makes of it."""
    older = OLDER.get(model_type)
    return older if older is not None and older.concerns(rope_type, keys) else None


def older_note(model_type: str, rope_type: str, keys: Collection[str] = ()) -> list[str]:
    """Say what older transformers make of a rope block, where it is not what is meant."""
    older = older_release(model_type, rope_type, keys)
    if older is None or not older.does:
        return []
    scaling = "a new rope_theta" if rope_type == "default" else f"{rope_type} scaling"
    return [
        f"{scaling} of {model_type} needs transformers {older.first}: older releases {older.does}"
    ]
