"""No mask of length x length in training: SDPA's causal path, or a sliding window in blocks."""

import pytest
import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ctxext.runs.recipe.config import LoraConfig
from ctxext.training.attention.windows import BLOCK, use_windows
from ctxext.training.memory.recompute import recompute_first
from ctxext.training.model.batch import plain_batch
from ctxext.training.model.lora import LossModel, add_adapters
from support.dispatch import Largest

LENGTH = 48
SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """(mask, is_causal) of every call of torch's attention kernel, and the masks it was given."""
    seen = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, is_causal=False, **more):
        seen.append((None if attn_mask is None else tuple(attn_mask.shape), is_causal))
        return kernel(query, key, value, attn_mask=attn_mask, is_causal=is_causal, **more)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    return seen


def model_of(name="Llama", **settings):
    config = getattr(transformers, f"{name}Config")(**SHAPE, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert model.config._attn_implementation == "sdpa"
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward
    return add_adapters(model, LoraConfig(rank=2), "t").train()


@pytest.mark.parametrize("recompute", [None, 0])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Mixtral"])
def test_the_loss_model_reaches_the_causal_kernel(calls, name, batch, recompute):
    model = model_of(name, **({"sliding_window": None} if name == "Mixtral" else {}))
    recompute_first(model, recompute)
    ids = torch.randint(0, 64, (batch, LENGTH))
    LossModel(model, 16).train()(plain_batch(ids)).backward()
    assert calls == [(None, True)] * (2 if recompute == 0 else 4)


@pytest.mark.parametrize("positions", ["none", "own", "shifted"])
@pytest.mark.parametrize("batch", [1, 3])
def test_positions_without_gaps_take_it_too(calls, batch, positions):
    model = model_of()
    ids = torch.randint(0, 64, (batch, LENGTH))
    places = torch.arange(LENGTH).expand(batch, -1) + (7 if positions == "shifted" else 0)
    model(input_ids=ids, position_ids=None if positions == "none" else places, use_cache=False)
    assert calls == [(None, True)] * 2


@pytest.mark.parametrize("batch", [1, 3])
def test_gaps_build_a_mask_unless_all_tokens_are_attended_to(calls, batch):
    """transformers reads a gap as the seam of two documents; a mask of ones says that it is not."""
    model = model_of()
    ids = torch.randint(0, 64, (batch, LENGTH))
    places = torch.arange(LENGTH) + 100 * (torch.arange(LENGTH) >= 20)
    places = places.expand(batch, -1)
    model(input_ids=ids, position_ids=places, use_cache=False)
    assert calls == [((batch, 1, LENGTH, LENGTH), False)] * 2
    calls.clear()
    ones = torch.ones_like(ids)
    model(input_ids=ids, position_ids=places, attention_mask=ones, use_cache=False)
    assert calls == [(None, True)] * 2


def test_a_window_shorter_than_the_row_needs_its_mask(calls):
    model = model_of("Mistral", sliding_window=16)
    model(input_ids=torch.randint(0, 64, (1, LENGTH)), use_cache=False)
    assert calls == [((1, 1, LENGTH, LENGTH), False)] * 2
    calls.clear()
    model(input_ids=torch.randint(0, 64, (1, 15)), use_cache=False)
    assert calls == [(None, True)] * 2


WINDOWED = {"Mistral": {}, "Gemma3": {"layer_types": ["sliding_attention", "full_attention"]}}


def config_name(name):
    return "Gemma3Text" if name == "Gemma3" else name


@pytest.mark.parametrize("recompute", [None, 0])
@pytest.mark.parametrize("name", WINDOWED)
def test_training_with_windows_makes_nothing_square(calls, name, recompute):
    length = 4 * BLOCK
    model = model_of(config_name(name), sliding_window=64, **WINDOWED[name])
    recompute_first(model, recompute)
    batch = plain_batch(torch.randint(0, 64, (1, length)))
    largest = {}
    for ours in (False, True):
        if ours:
            calls.clear()
            assert use_windows(model.get_base_model(), torch.device("cpu"), length)
        with Largest() as seen:
            LossModel(model, 16).train()(batch).backward()
        largest[ours] = seen.elements
    assert largest[False] >= length**2, "the reference makes a mask, so that this can fail"
    assert largest[True] <= 4 * BLOCK * (BLOCK + 64)  # two heads, forward and backward
    whole = (2 if recompute is None else 1) if name == "Gemma3" else 0
    assert calls.count((None, True)) == whole, "full layers stay on the causal path"
    masks = [mask for mask, _ in calls if mask is not None]
    assert all(mask[-2] <= BLOCK and mask[-1] < BLOCK + 64 for mask in masks)
