"""Rope blocks as files have them, generated, and transformers' own module for each."""

import copy
import importlib

from huggingface_hub.errors import StrictDataclassError
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "mixtral")
TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
ABSENT = object()
PAIRS = 8


def some(*values):
    return st.sampled_from([ABSENT, *values])


def without_absent(document):
    return {key: value for key, value in document.items() if value is not ABSENT}


@st.composite
def blocks(draw):
    """A rope block as files have them: keys missing, null, or of another type."""
    rope_type = draw(st.sampled_from(TYPES))
    spelled = draw(st.sampled_from(["rope_type", "type", *["both"] * 4, "neither", "apart"]))
    block = {
        "rope_type": rope_type if spelled in ("rope_type", "both") else ABSENT,
        "type": rope_type if spelled in ("type", "both") else ABSENT,
    }
    if spelled == "apart":
        block = {"rope_type": rope_type, "type": draw(st.sampled_from(TYPES))}
    block |= {
        "rope_theta": draw(some(ABSENT, ABSENT, 1e5)),
        "factor": draw(some(2.0, 4, 4.0, 8.0, 3.7, 32.0, 1.0, 0.5, None)),
        "original_max_position_embeddings": draw(some(2048, 4096, 8192, 32768)),
        "partial_rotary_factor": draw(some(ABSENT, ABSENT, ABSENT, 0.5, 1.0)),
        "attn_factor": draw(some(ABSENT, 0.9)),
    }
    if rope_type == "yarn" or draw(st.booleans()):
        block |= {
            "attention_factor": draw(some(ABSENT, ABSENT, None, 1.0, 1.2, 1)),
            "beta_fast": draw(some(ABSENT, None, 0, 0.5, 16, 32.0, 64)),
            "beta_slow": draw(some(ABSENT, None, 0, 1, 2.5, 40)),
            "mscale": draw(some(ABSENT, 0, 0.707, 1.0)),
            "mscale_all_dim": draw(some(ABSENT, 0.707, 1.0)),
            "truncate": draw(some(ABSENT, True, False, None)),
        }
    if rope_type == "llama3" or draw(st.integers(0, 3)) == 0:
        block |= {
            "low_freq_factor": draw(some(1.0, 1, 1.0, 2.5, 4.0)),
            "high_freq_factor": draw(some(4.0, 4, 4.0, 8.0, 2.5)),
        }
    if rope_type == "longrope":
        lists = st.lists(st.floats(0.5, 64), min_size=PAIRS, max_size=PAIRS)
        block |= {"short_factor": draw(lists), "long_factor": draw(lists)}
    return without_absent(block)


@st.composite
def configs(draw):
    """A config.json of one of the families, its rope in one dialect or in two."""
    block = draw(blocks())
    old, new = draw(
        st.sampled_from(["old", "new", "both", "apart", "none", "null"]).map(
            {
                "old": (block, ABSENT), "new": (ABSENT, block), "both": (block, block),
                "apart": (block, "other"), "none": (ABSENT, ABSENT), "null": (None, block),
            }.get
        )
    )  # fmt: skip
    family = draw(st.sampled_from(FAMILIES))
    return without_absent(
        {
            "model_type": family,
            "vocab_size": 32,
            "hidden_size": 64,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_local_experts": 2,
            "pad_token_id": 0,
            # Mixtral's class does not fill it in, and stops at most scalings without it.
            "head_dim": 16 if family == "mixtral" else draw(some(16, 16)),
            "max_position_embeddings": draw(some(2048, 4096, 32768, 131072)),
            "rope_theta": draw(some(1e4, 5e5, 1e6)),
            "partial_rotary_factor": draw(some(ABSENT, ABSENT, ABSENT, 0.5, 1.0)),
            "original_max_position_embeddings": draw(some(ABSENT, ABSENT, ABSENT, 2048, 4096)),
            "rope_scaling": old,
            "rope_parameters": draw(blocks()) if new == "other" else new,
        }
    )


def built(config):
    """transformers' own rotary module of a config; None where it cannot be made or cannot run."""
    family = config["model_type"]
    try:
        made = CONFIG_MAPPING[family].from_dict(copy.deepcopy(config))
        modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        rotary = getattr(modeling, f"{family.capitalize()}RotaryEmbedding")(made)
    except (StrictDataclassError, KeyError, TypeError, ValueError, ZeroDivisionError, RuntimeError):
        return None
    head_dim = getattr(made, "head_dim", None) or 16
    if 2 * len(rotary.inv_freq) != head_dim and family != "phi3":  # which turns some dims
        return None
    return rotary
