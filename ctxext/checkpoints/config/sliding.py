"""Say how far layers with a window look back, and whether their class or only the cache does it."""

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.detect import Position
from ctxext.checkpoints.config.layouts import has_a_layout
from ctxext.lengths import counted


def slides_in_cache_alone(model_type: str) -> bool:
    """Tell whether a family's class knows no windows, so that `sliding_window` shapes its cache
    alone: transformers builds any cache from that key."""
    of_class = (
        families.SLIDES_WHERE_NAMED | families.SLIDES_BY_FLAG | families.ROTARY_BY_LAYER_TYPE
        | families.SLIDING_WINDOW_WHEN_ABSENT.keys()
    )  # fmt: skip
    known = model_type in families.KNOWN and model_type not in of_class
    return known and not has_a_layout(model_type)


def may_be_off(model_type: str) -> bool:
    """Tell whether `sliding_window: null` lets a family attend to everything."""
    return model_type in families.WINDOW_MAY_BE_NULL or slides_in_cache_alone(model_type)


def window_words(position: Position, reach: int) -> str:
    """Say what it is that looks back `reach` tokens and no further."""
    if slides_in_cache_alone(position.model_type):
        return (
            f"transformers' class of {position.model_type} attends to all in a forward pass, and "
            "steps with a cache, which is built from sliding_window, attend to the last "
            f"{reach} tokens only"
        )
    sliding = sum(layer.attention == "sliding" for layer in position.layers)
    which = f"{counted(sliding, 'layer')} attend{'s' if sliding == 1 else ''}"
    if sliding == len(position.layers):
        which = "every layer attends"
    return f"{which} to the last {reach} tokens only"
