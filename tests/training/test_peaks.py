"""The estimate against the peak of a pass by the project's own code, on fake tensors."""

import pytest
import transformers

from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.estimate.memory import (
    Pass,
    Shape,
    auto_loss_chunk,
    layer_workspace_bytes,
    model_parameters,
    step_bytes,
)
from support.fake_peak import fake_peak

LLAMA_3_8B = ("Llama", {
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256,
})  # fmt: skip
LLAMA_2_7B = ("Llama", {
    "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000,
})  # fmt: skip
QWEN_3_8B = ("Qwen3", {
    "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32, "head_dim": 128,
    "num_key_value_heads": 8, "vocab_size": 151936,
})  # fmt: skip
SMOLLM_2 = ("Llama", {
    "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
})  # fmt: skip
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
LENGTH, LAYERS = 16384, 2
HALF, SINGLE = 2, 4  # bytes of a number: bfloat16 under autocast as on a GPU, float32 as on a CPU


def measured_and_estimated(model, recomputed, width, **settings):
    family, sizes = model
    config = getattr(transformers, f"{family}Config")(
        num_hidden_layers=LAYERS, max_position_embeddings=LENGTH, pad_token_id=None, **sizes
    )
    full = settings.get("full", False)
    step = Pass(
        1, LENGTH, width, loss_chunk=auto_loss_chunk(sizes["vocab_size"]),
        **{"targets": ALL if full else ATTENTION, "rank": 0 if full else 16} | settings,
    )  # fmt: skip
    lora = LoraConfig(
        rank=16, targets=step.targets, train_norms=step.train_norms,
        train_embeddings=step.train_head, dropout=0.1 if step.dropout else 0.0,
    )  # fmt: skip
    peak = fake_peak(config, step, recomputed, full=full, lora=lora)
    shape = Shape.of(config.to_dict())
    estimate = step_bytes(shape, step, recomputed)
    if full and width == HALF:  # the copies that autocast keeps of every layer's matrices
        tables = sizes["vocab_size"] * sizes["hidden_size"] * (1 if shape.tied else 2)
        estimate += HALF * (model_parameters(shape, config.to_dict()) - tables)
    return peak, estimate


@pytest.mark.parametrize(
    ("model", "recomputed", "width", "settings"),
    [
        (LLAMA_3_8B, 2, HALF, {}),
        (LLAMA_3_8B, 2, HALF, {"mlp_tile": 4096, "targets": ALL}),
        (LLAMA_3_8B, 2, HALF, {"mlp_tile": 4096, "targets": ALL, "train_norms": True}),
        (LLAMA_3_8B, 1, HALF, {"targets": ALL}),
        (LLAMA_3_8B, 0, HALF, {}),
        (LLAMA_3_8B, 2, HALF, {"mlp_tile": 4096, "train_head": True}),
        (LLAMA_3_8B, 2, SINGLE, {"targets": ALL}),
        (LLAMA_2_7B, 2, HALF, {"mlp_tile": 4096, "dropout": True}),
        (LLAMA_2_7B, 2, SINGLE, {"mlp_tile": 4096}),
        (QWEN_3_8B, 2, HALF, {"mlp_tile": 4096, "train_norms": True}),
        (SMOLLM_2, 2, HALF, {"train_norms": True, "train_head": True}),
        (SMOLLM_2, 2, HALF, {"full": True, "train_norms": True, "train_head": True}),
    ],
)
def test_the_estimate_is_the_peak(model, recomputed, width, settings):
    peak, estimate = measured_and_estimated(model, recomputed, width, **settings)
    assert estimate == pytest.approx(peak, rel=0.04)


def test_offloaded_inputs_are_counted_with_the_one_that_is_fetched():
    """In the backward pass the layer's own input has gone by the peak: 8 KiB a token too many."""
    peak, estimate = measured_and_estimated(
        LLAMA_3_8B, 2, HALF, mlp_tile=4096, targets=ALL, offload=True
    )
    assert estimate - peak == pytest.approx(LENGTH * 4096 * 2, rel=0.1)


def test_a_token_of_llama_3_8b_by_hand():
    """KiB in attention's backward pass: of the norm 16 (float32) and 8; q, out 8 each, k, v 2 each,
    log-sum-exp 1/8; gradients of the layer's output and of attention's 8 each, dq 8, dk and dv 4,
    dq in float32 16, dk and dv of each query head 16; three low-rank tensors and o_proj's, 1/8."""
    sizes = LLAMA_3_8B[1]
    shape = Shape.of({"num_hidden_layers": 32, "model_type": "llama", **sizes})
    step = Pass(1, 2**17, 2, ATTENTION, 16, loss_chunk=256, mlp_tile=2048)
    kib = 16 + 8 + 8 + 8 + 2 + 2 + 1 / 8 + 8 + 8 + 8 + 4 + 16 + 16 + 1 / 8
    assert layer_workspace_bytes(shape, step) == pytest.approx(2**17 * kib * 1024, rel=1e-3)
