"""Every causal type of the installed transformers: extended exactly as meant, or refused."""

import copy
from pathlib import Path

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.config.extendable import not_by_this
from ctxext.checkpoints.config.patch_window import plan_extended
from ctxext.checkpoints.live.rotary import live_ropes
from ctxext.errors import BadInput
from ctxext.methods import get_method
from ctxext.methods.yarn import yarn_attention
from support.every_family import FACTOR, TYPES, built, decoder, planned, read, table


def turned(model, position, extension):
    """Let a model built without any scaling turn as the method says: the meant model."""
    for rope in live_ropes(model, position.model_type):
        buffer = getattr(rope.module, rope._named("inv_freq")).clone()
        buffer[: len(extension.inv_freq)] = torch.tensor(extension.inv_freq)
        setattr(rope.module, rope._named("inv_freq"), buffer)
        setattr(rope.module, rope._named("attention_scaling"), extension.attention_factor)
        if rope.layer_type is None:
            rope.module.rope_type = "default"  # nothing is computed anew in the forward pass
        else:
            rope.module.rope_type[rope.layer_type] = "default"
        if hasattr(rope.module, "rope_init_fn"):  # PhiMoE asks it in every pass
            meant = torch.tensor(extension.inv_freq), extension.attention_factor
            rope.module.rope_init_fn = lambda *_, meant=meant, **__: meant
    if position.model_type in families.LATENT and "mscale_all_dim" in extension.rope_block:
        scale = yarn_attention(FACTOR, extension.rope_block["mscale_all_dim"]) ** 2
        for module in model.modules():
            if hasattr(module, "scaling") and type(module).__name__.endswith(("Attention", "MLA")):
                module.scaling *= scale
    return model


def check(name, method):
    config, position, patch = planned(name, method)
    extension = patch.extension
    after = detect(patch.config, where="config.json", original_length=patch.original)
    assert after.window.original == position.window.original
    assert after.rope.inv_freq == pytest.approx(extension.inv_freq, rel=1e-12)
    assert after.rope.attention_factor == pytest.approx(extension.attention_factor, rel=1e-12)
    keys = {k: v for k, v in patch.config.items() if k not in ("model_type",)}
    extended = built(CONFIG_MAPPING[position.model_type](**copy.deepcopy(keys)))
    ropes = live_ropes(extended, position.model_type)
    assert ropes
    for rope in ropes:
        assert rope.inv_freq.tolist() == pytest.approx(extension.inv_freq, rel=1e-5)
        assert rope.attention_factor == pytest.approx(extension.attention_factor, rel=1e-6)
    plain, meant = built(config), built(config)
    for model in (plain, meant):
        model.load_state_dict(extended.state_dict())
    turned(meant, position, extension)
    ids = torch.randint(3, 60, (1, min(2 * position.window.original, 300)))
    with torch.no_grad():
        logits, before, wanted = (m(ids).logits for m in (extended, plain, meant))
    assert torch.allclose(logits, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(logits, before, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", TYPES)
def test_what_is_extended_is_the_meant_model_and_the_rest_is_refused(name):
    check(name, "yarn")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear", "ntk", "llama3"])
@pytest.mark.parametrize("name", TYPES)
def test_by_other_methods_too(name, method):
    check(name, method)


@pytest.mark.parametrize(
    "name",
    ["mpt", "falcon+alibi", "xglm", "ctrl", "jamba", "zamba", "granitemoehybrid",
     "nemotron_h", "kimi_linear"],
)  # fmt: skip
def test_a_raised_window_is_read_to_its_end_and_short_texts_as_before(name):
    config, document = decoder(name)
    position = read(document)
    window, method = position.window.original, get_method("extrapolate")
    patch = plan_extended(document, position, method, FACTOR * window, parameters={})
    after = read(patch.config)
    assert after.window.current == FACTOR * window
    keys = {key: value for key, value in patch.config.items() if key != "model_type"}
    extended = built(CONFIG_MAPPING[position.model_type](**copy.deepcopy(keys)))
    plain = built(config)
    plain.load_state_dict(extended.state_dict())
    ids = torch.randint(3, 60, (1, FACTOR * window))
    with torch.no_grad():
        long, short = (
            model(part, use_cache=False).logits
            for model, part in ((extended, ids), (plain, ids[:, :window]))
        )
    assert long.isfinite().all()
    assert torch.allclose(long[:, :window], short, atol=1e-5, rtol=1e-4)


def test_the_table_in_the_docs_is_what_is_done():
    path = Path(__file__).parents[2] / "docs" / "families.md"
    said = path.read_text()
    if f"\n{transformers.__version__}:" not in said:
        pytest.skip(f"docs/families.md is of another transformers than {transformers.__version__}")
    assert table() == said


def test_what_a_class_would_pass_over_is_refused():
    """PhiMoE's asks for frequencies without a length."""
    position = read(decoder("phimoe")[1])
    assert "does not compute dynamic" in str(not_by_this(position, get_method("dynamic"), ""))
    lists = {"long_factor": [2.0] * (position.rope.spec.rotary_dim // 2)}
    with pytest.raises(BadInput, match="reads short_factor at every length"):
        planned("phimoe", "longrope", lambda position: lists)
    both = lists | {"short_factor": lists["long_factor"]}
    assert planned("phimoe", "longrope", lambda position: both)[2].extension is not None
