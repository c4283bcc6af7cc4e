"""Tell transformers of attention of our own, here and nowhere else.

A layer calls what is registered under its config's `_attn_implementation`, and its mask comes from
what is registered for masks under the same name.
"""

from collections.abc import Callable
from typing import Any

KNOWN_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""The `layer_types` that our attention computes; models with others are left alone or refused."""
_OURS = "ctxext_"  # how every name that is registered here begins


def register_attention(
    name: str, attention: Callable[..., Any], mask: Callable[..., Any] | None = None
) -> None:
    """Let transformers find attention under a name; doing so again is no harm.

    Args:
        name: begins with `ctxext_`.
        attention: as transformers' `AttentionInterface` calls it.
        mask: as its `AttentionMaskInterface` calls it; None = nobody asks for one.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if not name.startswith(_OURS):
        raise ValueError(f"{name} would stand in for attention of transformers")
    AttentionInterface.register(name, attention)
    if mask is not None:
        AttentionMaskInterface.register(name, mask)


def adds_to_scores(config: Any) -> bool:
    """Tell whether a decoder hands its attention a bias where a mask would be.

    The laboratory's does with ALiBi. What takes a window or nothing in that place would lose it.
    """
    return getattr(config, "position_encoding", None) == "alibi"


def never_compile(name: str) -> None:
    """Keep torch.compile off what is registered under a name, if that is ours."""
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name.startswith(_OURS):
        disable: Any = torch.compiler.disable
        register_attention(name, disable(ALL_ATTENTION_FUNCTIONS[name]))
