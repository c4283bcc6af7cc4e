"""Where a stock class is the laboratory's decoder already, both give the same logits."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from ctxext.lab.convert import from_gpt2, from_llama, to_gpt2, to_llama
from ctxext.lab.decoder import LabConfig, LabForCausalLM

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 48, "initializer_range": 0.2}  # fmt: skip
IDS = torch.randint(64, (2, 40), generator=torch.Generator().manual_seed(0))


def random(model):
    """Every number random, also those that begin at 0 or 1: a lost one is seen."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def check_both_ways(first, there, back):
    second = there(first)
    third = back(second)
    with torch.no_grad():
        logits = [model(input_ids=IDS).logits for model in (first, second, third)]
    torch.testing.assert_close(logits[0], logits[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(logits[0], logits[2])
    assert not second.training
    return second


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("factor", [None, 4.0])
def test_rope_in_llamas_blocks_is_llama(tied, factor):
    rope = {"rope_type": "default", "rope_theta": 1000.0}
    if factor:
        rope |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 12}
    shared = {**SIZES, "intermediate_size": 48, "tie_word_embeddings": tied}
    ours = random(LabForCausalLM(LabConfig(**shared, rope_parameters=dict(rope))))
    llama = check_both_ways(ours, to_llama, from_llama)
    assert type(llama) is LlamaForCausalLM
    stock = random(LlamaForCausalLM(LlamaConfig(**shared, rope_parameters=dict(rope))))
    check_both_ways(stock, from_llama, to_llama)


@pytest.mark.parametrize("tied", [True, False])
def test_a_learned_table_in_gpt2s_blocks_is_gpt2(tied):
    shared = {**SIZES, "tie_word_embeddings": tied}
    ours = random(
        LabForCausalLM(
            LabConfig(**shared, intermediate_size=48, block="gpt2", position_encoding="learned")
        )
    )
    gpt2 = check_both_ways(ours, to_gpt2, from_gpt2)
    assert type(gpt2) is GPT2LMHeadModel
    stock = random(GPT2LMHeadModel(GPT2Config(**shared)))
    check_both_ways(stock, from_gpt2, to_gpt2)


def test_what_is_no_stock_class_is_refused():
    alibi = LabForCausalLM(LabConfig(**SIZES, position_encoding="alibi"))
    with pytest.raises(ValueError, match="alibi with block llama is no stock class"):
        to_llama(alibi)
    with pytest.raises(ValueError, match="learned with block gpt2 is this one"):
        to_gpt2(alibi)
    grouped = LlamaConfig(**SIZES, intermediate_size=48, num_key_value_heads=2)
    with pytest.raises(ValueError, match="knows no grouped keys"):
        from_llama(LlamaForCausalLM(grouped))
    by_layer = GPT2Config(**SIZES, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ValueError, match="no such scores"):
        from_gpt2(GPT2LMHeadModel(by_layer))
