"""A small config of every causal type of the installed transformers, and a table of them all.

`python tests/support/every_family.py > docs/families.md` writes the table.
"""

import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.config.extendable import not_by_this
from ctxext.checkpoints.config.patch import plan_patch
from ctxext.checkpoints.config.patch_window import plan_extended
from ctxext.checkpoints.config.rope_forms import form_of
from ctxext.encodings.kinds import ROTARY
from ctxext.errors import BadInput
from ctxext.methods import METHODS, get_method, methods_for, rope_methods
from support.tiny_models import as_file, tiny_config

WINDOW = 64
FACTOR = 4
# Of several parts, whose decoder has no class of its own for continuing text; or made of other
# models' parts. `tests/e2e/test_every_kind.py` takes whole ones.
PARTS = {
    "emu3", "mllama", "musicgen", "musicgen_melody", "gemma4_assistant",
    "gemma4_unified_assistant", "dbrx",
}  # fmt: skip
# Named by what its flag makes of it.
VARIANTS = {
    "granitemoehybrid+rope": {
        "position_embedding_type": "rope", "layer_types": ["mamba", "attention"] * 4,
    },
    "falcon+alibi": {"alibi": True},
    "qwen2+sliding": {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 4},
    "gpt_neox+whole": {"rotary_pct": 1.0},
    "stablelm+half": {"partial_rotary_factor": 0.5},
}  # fmt: skip
TYPES = sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS} - PARTS)


def decoder(name):
    """(config, the keys of its file) of a small decoder with a window of 64 tokens."""
    model_type = name.partition("+")[0]
    plain = CONFIG_MAPPING[model_type]().get_text_config(decoder=True)
    changes = dict(VARIANTS.get(name, {}))
    if plain.model_type not in families.ROPE_WHEN_ABSENT:  # which state windows of their own
        for key in (
            "max_position_embeddings", "max_seq_len", "model_max_length",
            "original_max_position_embeddings",
        ):  # fmt: skip
            if getattr(plain, key, None) is not None:
                changes[key] = WINDOW
    config = tiny_config(model_type, **changes)
    return config, as_file(config)


def read(document):
    return detect({**document, "is_encoder_decoder": False}, where="config.json")


def built(config):
    """A model of random weights; the same ones for configs that differ in their rope alone."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # gates that begin closed
                parameter.normal_(std=0.02)
    return model


def planned(name, method, parameters=lambda position: {}):
    """(config, position, patch) of a type that is extended; skips where it is refused, with why."""
    try:
        config, document = decoder(name)
    except (ValueError, AttributeError, NotImplementedError, StrictDataclassError) as error:
        pytest.skip(f"no small one can be made: {error}"[:150])
    try:
        position = read(document)
    except BadInput as refusal:
        pytest.skip(f"refused: {refusal}")
    if position.encoding not in ROTARY:
        pytest.skip(f"does not rotate: {position.encoding}")
    refusal = not_by_this(position, get_method(method), "config.json")
    if refusal is not None:
        pytest.skip(f"refused: {refusal}")
    target = FACTOR * position.window.original
    try:
        return config, position, plan_patch(
            document, position, method=method, target=target, parameters=parameters(position)
        )  # fmt: skip
    except BadInput as refusal:
        if "turns as the checkpoint does already" not in str(refusal):
            raise
        pytest.skip(f"refused: {refusal}")


_HEAD = """# Every decoder type of transformers

What `ctxext inspect` and `ctxext extend` make of each causal model type of transformers
{version}: made by `python tests/support/every_family.py` from a small config of each, and held by
`tests/checkpoints/test_every_family.py`, which builds what is extended and compares its frequencies
and logits with those of the meant model.

- **rope** and **partial-rope** turn whole heads or a share of them; of **mixed** some layers do not
  turn. **by layer type**: windowed layers have a rope of their own, which stays as it is.
- Without a rope other methods extend: **learned** tables get rows, of **alibi**, **sinusoidal** and
  **none** the window is raised (each table is built by `tests/checkpoints/test_tables.py`).
- A multimodal checkpoint is read and extended where its decoder stands, in `text_config`.

| type | position | extended | by, or why not |
| --- | --- | --- | --- |
"""


def table():
    """The whole document."""
    import transformers

    rows = [f"| {name} | {' | '.join(row(name))} |" for name in TYPES]
    return _HEAD.format(version=transformers.__version__) + "\n".join(rows) + "\n"


def row(name):
    """(position encoding, yes or no, methods or the reason) of a type."""
    try:
        document = decoder(name)[1]
        position = read(document)
    except BadInput as refusal:
        return "unknown", "no", _reason(refusal)
    except (ValueError, AttributeError, NotImplementedError, StrictDataclassError):
        return "unknown", "no", "its class makes no small model, so nothing was measured"
    word = position.encoding or "relative"
    if position.encoding is None:
        return word, "no", "no method for its bias"
    fitting = methods_for(position.encoding)
    reasons = {method.name: not_by_this(position, method, "") for method in fitting}
    methods = [
        each
        for each, reason in reasons.items()
        if reason is None and _plans(document, position, each)
    ]
    if not methods:
        return word, "no", _reason(reasons[fitting[0].name])
    if position.encoding not in ROTARY:
        return word, "yes", ", ".join(name for name in methods if not METHODS[name].takes_back)
    if position.model_type in families.LATENT:
        word += ", latent attention"
    if form_of(position.model_type).layer_type is not None:
        word += ", by layer type"
    every = len(methods) == len(rope_methods())
    return word, "yes", "every method" if every else ", ".join(sorted(methods))


def _plans(document, position, name):
    """Whether a method gives a config; one that needs more than a target is taken at its word."""
    method = METHODS[name]
    if method.required or method.takes_back or position.stated_window is None:
        return True
    try:
        plan_extended(document, position, method, 4 * position.window.current, parameters={})
    except BadInput:
        return False
    return True


def _reason(refusal):
    return str(refusal).removeprefix("config.json").removeprefix(":").strip().replace("|", "/")


if __name__ == "__main__":
    sys.stdout.write(table())
