"""Weights that are not the model's, each way they can differ, and configs that ask for more."""

import json
import resource
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ctxext.checkpoints.folder import Source
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.live.tensors import check_tensors
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput, CtxextError
from support.checkpoints import build_tiny

LOST = "model.layers.1.mlp.up_proj.weight"


def change(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def rewrite(folder, change_tensors):
    tensors = load_file(folder / "model.safetensors")
    change_tensors(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture
def model(tmp_path, tiny_llama):
    return shutil.copytree(tiny_llama, tmp_path / "model")


def live(folder):
    opened = open_checkpoint(str(folder))
    return load_model(opened.source, opened.position)


def says(folder, *words):
    """Both the check and the loader refuse; what was asked for is not loaded."""
    for refuse in (lambda: check_tensors(Source(folder, folder.name)), lambda: live(folder)):
        with pytest.raises(CtxextError) as caught:
            refuse()
        for word in words:
            assert word in str(caught.value)


def test_a_missing_tensor(model):
    rewrite(model, lambda tensors: tensors.pop(LOST))
    says(model, "the weights of model", "they lack 1 tensor", LOST)


def test_a_size_of_zero(model):
    """torch warns of tensors without a number, which nobody who typed a command can use."""
    change(model, intermediate_size=0)
    says(model, "[0, 64] asked for")


@pytest.mark.parametrize("size", ["hidden_size", "head_dim"])
def test_a_rope_that_no_memory_holds_is_not_made(model, size):
    change(model, **{size: 2**31 - 4})
    says(model, size)


def test_a_tensor_of_another_shape(model):
    rewrite(model, lambda t: t.update({LOST: torch.zeros(95, 64)}))
    says(model, LOST, "[95, 64] stored", "[96, 64] asked for")


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.uint8, torch.int32, torch.bool, torch.float8_e4m3fn, torch.complex64],
)
def test_codes_in_place_of_numbers(model, dtype):
    """transformers would cast them to floats, and a perplexity would come out."""
    rewrite(model, lambda t: t.update({LOST: torch.ones(96, 64).to(dtype)}))
    says(model, "the weights of model hold 1 tensor", LOST, "codes and no numbers")


def test_a_tensor_that_the_model_does_not_have(model):
    rewrite(model, lambda t: t.update({"model.layers.1.mlp.third.weight": torch.zeros(2)}))
    says(model, "no place in the model", "model.layers.1.mlp.third.weight")


@pytest.mark.parametrize(("layers", "words"), [(3, "they lack 9 tensors"), (1, "no place in the")])
def test_more_or_fewer_layers_than_there_are_weights(model, layers, words):
    change(model, num_hidden_layers=layers)
    says(model, words, "model.layers.")


def test_what_silences_transformers_silences_nothing(model):
    rewrite(model, lambda tensors: tensors.pop(LOST))
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        says(model, LOST)
    finally:
        transformers.logging.set_verbosity_warning()


def test_old_buffers_are_passed_over(model):
    """Llama's rotary buffers, which transformers once stored: the class ignores them by design."""
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.zeros(8) for i in (0, 1)}
    rewrite(model, lambda t: t.update(old))
    assert live(model).config.num_hidden_layers == 2


def test_masks_of_old_gpt_checkpoints_are_passed_over(tmp_path):
    """As openai-community/gpt2 is stored: no prefix, and a causal mask beside every attention."""
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=16, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    plain = transformers.AutoModelForCausalLM.from_config(config).eval()
    plain.save_pretrained(tmp_path / "gpt")

    def age(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        for layer in (0, 1):
            tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 16, 16).tril()
            tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)

    rewrite(tmp_path / "gpt", age)
    ids = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.equal(live(tmp_path / "gpt")(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("stored_twice", [False, True])
def test_a_tied_head_may_be_stored_or_not(tmp_path, stored_twice):
    folder = build_tiny(tmp_path / "tied", tied=True)
    if stored_twice:
        rewrite(
            folder,
            lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}),
        )
    head = live(folder).lm_head.weight
    assert torch.equal(head, load_file(folder / "model.safetensors")["model.embed_tokens.weight"])


def test_experts_stored_one_by_one_are_seen_as_they_are_fused(tmp_path):
    """Mixtral on disk has a matrix for each expert, and transformers 5 has one for all."""
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
        max_position_embeddings=64, sliding_window=None,
    )  # fmt: skip
    folder = tmp_path / "experts"
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    names = list(load_file(folder / "model.safetensors"))
    check_tensors(Source(folder, "experts"))
    one = next(name for name in names if "experts.2." in name)
    rewrite(folder, lambda tensors: tensors.pop(one))
    with pytest.raises(CtxextError):
        check_tensors(Source(folder, "experts"))


@pytest.mark.parametrize(
    "keys",
    [
        {"num_labels": 99_999_999_999},
        {"id2label": {str(i): "x" for i in range(1000)}},
        {"attn_implementation": "somebody/kernels"},
        {"_attn_implementation": "somebody/kernels"},
        {"_attn_implementation_internal": "somebody/kernels"},
        {"experts_implementation": "somebody/kernels"},
        {"transformers_weights": "other.safetensors"},
        {"auto_map": {"AutoModelForCausalLM": "somebody/code--modeling.Model"}},
        {"pruned_heads": {"0": [0, 1]}},
        {"per_layer_config": {"0": {"hidden_size": 8}}},
        {"output_hidden_states": True, "return_dict": False, "output_attentions": True},
        {"fusion_config": {"attention": True}},
        {"chunk_size_feed_forward": 7, "is_decoder": False, "torchscript": True},
        {"adapter_config": {"base_model_name_or_path": "somebody/else"}, "use_kernels": True},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_what_no_decoder_is_made_of_decides_nothing(model, tiny_llama, keys):
    """The same logits as plain transformers gives for the file without these keys."""
    change(model, **keys)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(live(model)(ids, return_dict=True).logits, plain(ids).logits)


def test_nothing_of_the_folder_is_loaded_but_the_tensors(model, tiny_llama):
    """transformers would read each of these: an adapter, and shards of torch's own format."""
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    shutil.copy(model / "model.safetensors", model / "shard-00000-model-00001-of-00001.safetensors")
    plain = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama).eval()
    for mine, theirs in zip(live(model).parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "keys",
    [
        {"vocab_size": 10**12},
        {"intermediate_size": 10**12},
        {"num_hidden_layers": 200_000},
        {"hidden_size": 2**17, "num_attention_heads": 2},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_absurd_sizes_end_before_memory_is_taken(model, keys):
    change(model, **keys)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    says(model)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def test_own_code_is_named_and_not_run(model):
    change(model, model_type="somebody_s", auto_map={"AutoConfig": "code.Config"})
    with pytest.raises(BadInput, match="brings its own Python code"):
        check_tensors(Source(model, "model"))


def test_dtype_and_generation_settings_are_those_of_the_file(tmp_path):
    folder = build_tiny(tmp_path / "half", dtype="bfloat16")
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.25}')
    opened = open_checkpoint(str(folder))
    half = load_model(opened.source, opened.position, dtype="bfloat16")
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert half.dtype == plain.dtype == torch.bfloat16
    assert half.generation_config.to_dict() == plain.generation_config.to_dict()
    assert half.generation_config.repetition_penalty == 1.25
