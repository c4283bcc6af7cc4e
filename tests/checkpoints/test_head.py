"""Heads of real transformers classes: logits as their own forward gives them, or a refusal."""

import pytest
import torch
import transformers

from ctxext.checkpoints.live.head import check_head, head_of
from ctxext.errors import CtxextError

IDS = torch.arange(40)[None]
SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def model_of(name, **settings):
    config = getattr(transformers, f"{name}Config")(**SHAPE, **settings)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


@pytest.mark.parametrize(
    ("name", "settings", "scale", "softcap"),
    [
        ("Llama", {}, 1.0, None),
        ("Gemma2", {"final_logit_softcapping": 5.0}, 1.0, 5.0),
        ("Granite", {"logits_scaling": 8.0}, 0.125, None),
        ("Cohere", {"logit_scale": 0.25}, 0.25, None),
        ("HyperCLOVAX", {"logits_scaling": 0.5}, 0.5, None),
    ],
)
def test_known_heads(name, settings, scale, softcap):
    model = model_of(name, **settings)
    head = head_of(model)
    assert (head.scale, head.softcap) == (scale, softcap)
    check_head(model, IDS)
    assert model.training


def test_a_bias_is_part_of_the_head():
    model = model_of("Phi", partial_rotary_factor=1.0)
    torch.nn.init.normal_(model.lm_head.bias)
    assert head_of(model).bias is model.lm_head.bias
    check_head(model, IDS)


def test_an_unknown_head_is_refused():
    class Odd(transformers.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits * 1.01
            return out

    model = Odd(transformers.LlamaConfig(**SHAPE))
    with pytest.raises(CtxextError, match="head of Odd is unknown"):
        check_head(model, IDS)
