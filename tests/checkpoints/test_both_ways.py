"""What is an encoder is told from its config, and neither read nor trained."""

import json
import shutil

import pytest

from ctxext.checkpoints.config.detect import detect
from support.bad_inputs import accepted, names, refused
from support.checkpoints import build_tiny, write_byte_tokenizer
from support.command import run_ctxext

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
ROTARY = SIZES | {"num_key_value_heads": 2, "head_dim": 16, "bos_token_id": 1, "eos_token_id": 2}
XLM = {"vocab_size": 64, "emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 64}
XLNET = {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 32}
CASES = {
    "bert": ("bert", SIZES),
    "bert-decoder": ("bert", SIZES | {"is_decoder": True}),
    "roberta": ("roberta", SIZES | {"is_decoder": False}),
    "roberta-decoder": ("roberta", SIZES | {"is_decoder": True}),
    "roformer": ("roformer", SIZES),
    "roformer-decoder": ("roformer", SIZES | {"is_decoder": True}),
    "xlm": ("xlm", XLM),
    "xlm-decoder": ("xlm", XLM | {"causal": True}),
    "xlnet": ("xlnet", XLNET),
    "xlnet-decoder": ("xlnet", XLNET | {"attn_type": "uni"}),
    "llama": ("llama", ROTARY),
    "llama-not-causal": ("llama", ROTARY | {"is_causal": False}),
    "gemma3": ("gemma3_text", ROTARY),
    "embedding-gemma": ("gemma3_text", ROTARY | {"use_bidirectional_attention": True}),
    "gemma": ("gemma", ROTARY),
    "gemma-both-ways": ("gemma", ROTARY | {"use_bidirectional_attention": True}),
    "gemma4-all": ("gemma4_text", ROTARY | {"use_bidirectional_attention": "all"}),
    "gemma4-vision": ("gemma4_text", ROTARY | {"use_bidirectional_attention": "vision"}),
}  # fmt: skip


def a_token_sees_the_next(model):
    """Whether another last token changes what a model says before it."""
    import torch

    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    one = torch.arange(5, 17)[None]
    other = one.clone()
    other[0, -1] = 40
    with torch.no_grad():
        logits = [model.eval()(input_ids=ids).logits[0, :-1] for ids in (one, other)]
    return bool((logits[0] - logits[1]).abs().max() > 1e-3)


@pytest.mark.parametrize("case", CASES)
def test_what_looks_both_ways_in_transformers_is_an_encoder_here(case):
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    model_type, keys = CASES[case]
    extra = (
        {"global_head_dim": 16, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64}
        if model_type == "gemma4_text"
        else {}
    )
    told = {**keys, **extra}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**told))
    file = {"num_attention_heads": 2, **told, "model_type": model_type}
    file |= {"num_hidden_layers": 2, "hidden_size": 32}
    said = detect(file, where="config.json").both_ways
    assert (said is not None) == a_token_sees_the_next(model)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A masked language model, an encoder without a head, and a decoder whose masks are off."""
    from transformers import BertConfig, BertModel, RobertaConfig, RobertaForMaskedLM

    folder = tmp_path_factory.mktemp("encoders")
    sizes = SIZES | {"vocab_size": 256, "max_position_embeddings": 130}
    RobertaForMaskedLM(RobertaConfig(**sizes)).save_pretrained(folder / "roberta")
    BertModel(BertConfig(**sizes)).save_pretrained(folder / "bert")
    for name in ("roberta", "bert"):
        write_byte_tokenizer(folder / name, 128)
    llama = build_tiny(folder / "llama")
    config = json.loads((llama / "config.json").read_text()) | {"is_causal": False}
    (llama / "config.json").write_text(json.dumps(config))
    return folder


COMMANDS = {
    "finetune": ["--data", "BOOK", "--seq-length", 64, "--steps", 2, "-o", "OUT"],
    "finetune-dry": ["--data", "BOOK", "--seq-length", 64, "--steps", 2, "--dry-run", "--json"],
    "eval-ppl": ["--data", "BOOK", "--lengths", 64, "-o", "OUT"],
    "eval-retrieval": ["--lengths", 64, "-o", "OUT"],
    "extend": ["--target", 512, "-o", "OUT"],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_an_encoder_is_refused_where_it_would_be_read_or_trained(tmp_path, encoders, book, case):
    places = {"BOOK": book, "OUT": tmp_path / "out"}
    flags = [places.get(str(each), each) for each in COMMANDS[case]]
    for name in ("roberta", "bert", "llama") if case == "finetune-dry" else ("roberta",):
        done = run_ctxext(case.removesuffix("-dry"), encoders / name, *flags)
        refused(done, 2, f"this {name} looks both ways: it is an encoder", "extends decoders")
    assert names(tmp_path) == []


def test_the_harness_and_merge_refuse_an_encoder_too(tmp_path, encoders):
    from ctxext import merge
    from ctxext.errors import BadInput
    from ctxext.evaluation.session import Loading
    from support.bad_inputs import adapter_in

    with pytest.raises(BadInput, match="it is an encoder"):
        Loading().open(str(encoders / "roberta"))
    adapter = adapter_in(tmp_path / "adapter")
    with pytest.raises(BadInput, match="it is an encoder"):
        merge(adapter, output_dir=tmp_path / "out", base=str(encoders / "roberta"))


def test_inspect_only_warns_of_an_encoder(tmp_path, encoders):
    base = shutil.copytree(encoders / "roberta", tmp_path / "roberta")
    accepted(run_ctxext("inspect", base), "looks both ways: it is an encoder")


def test_paligemma_looks_both_ways_where_its_decoder_does_not_say(tmp_path):
    text = {**ROTARY, "model_type": "gemma"}
    whole = {"model_type": "paligemma", "text_config": text}
    assert detect(whole, where="config.json").both_ways is not None
    text["use_bidirectional_attention"] = False
    assert detect(whole, where="config.json").both_ways is None
