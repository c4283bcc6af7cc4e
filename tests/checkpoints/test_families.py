"""What is said of families is what transformers' own classes do, or "unknown"; never another."""

import copy
import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ctxext.api.inspect import inspect
from ctxext.checkpoints.config import families
from ctxext.checkpoints.config.detect import detect
from ctxext.errors import BadInput
from support.tiny_models import as_file, cached_numbers, tiny_config

# Its class cannot make its own defaults.
TYPES = sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {"gemma4_assistant"})
# transformers' words for a layer, and ours.
KINDS = {
    "full_attention": "full", "hybrid": "full", "sliding_attention": "sliding",
    "hybrid_sliding": "sliding", "chunked_attention": "chunked", "linear_attention": "linear",
    "conv": "linear", "mlp": "linear", "moe": "linear",
}  # fmt: skip


def decoder_config(model_type, **changes):
    """The family's default config: of its decoder, where it is one of several parts."""
    plain = CONFIG_MAPPING[model_type]().get_text_config(decoder=True)
    return type(plain)(**changes) if changes else plain


def read(document, **changes):
    return detect({**document, **changes}, where="config.json")


@pytest.mark.parametrize("model_type", TYPES)
def test_a_layout_that_is_not_spelled_out_is_the_class_s_or_unknown(model_type):
    config = decoder_config(model_type)
    if not isinstance(getattr(config, "layer_types", None), list | tuple):
        pytest.skip("one kind of layer")
    config_file = as_file(config)
    for key in ("layer_types", "layers_block_type"):
        config_file.pop(key, None)
    try:
        position = read(config_file, is_encoder_decoder=False)
    except BadInput as refusal:
        pytest.skip(f"refused: {refusal}")
    if len(config.layer_types) != config.num_hidden_layers:
        pytest.skip("its class counts its layers in two ways")
    for layer, word in zip(position.layers, config.layer_types, strict=True):
        said = layer.attention
        if said is not None:
            assert said == KINDS.get(word), (layer, word)
        if said == "sliding":
            reach = getattr(config, "sliding_window", None)
            assert layer.window == reach


@pytest.mark.parametrize("model_type", TYPES)
def test_no_default_config_is_a_traceback_or_a_guess(model_type):
    config = decoder_config(model_type)
    try:
        position = read(as_file(config), is_encoder_decoder=False)
    except BadInput:
        return
    assert len(position.layers) > 0
    known = config.model_type in families.KNOWN - families.CACHE_UNKNOWN
    assert (position.kept is not None) == known


def said_cache(config, tokens):
    """Numbers in each layer's cache after so many tokens as ctxext says; None where it does not."""
    position = read(as_file(config), is_encoder_decoder=False)
    if position.kept is None or any(layer.attention is None for layer in position.layers):
        return None
    return [
        0 if layer.attention == "linear" else position.kept * tokens for layer in position.layers
    ]


def as_long(numbers, layers, model_type=None):
    """Of a cache that ends with the last layer that keeps something."""
    if model_type in families.TWO_ATTENTIONS_A_LAYER:  # each of which has a place in the cache
        numbers = [a + b for a, b in zip(numbers[::2], numbers[1::2], strict=True)]
    return numbers + [0] * (layers - len(numbers))


TOKENS = 12
HYBRID = ["linear_attention", "full_attention"] * 4
FEW = {  # one of each kind, with what its class leaves open
    "llama": {}, "mistral": {}, "gemma2": {}, "gpt_oss": {}, "cohere2": {}, "exaone4": {},
    "modernbert-decoder": {}, "llama4_text": {}, "gpt2": {}, "bloom": {}, "opt": {},
    "falcon": {}, "falcon ": {"multi_query": False}, "gpt_bigcode": {}, "jetmoe": {},
    "deepseek_v3": {}, "kimi_linear": {}, "qwen3_next": {}, "jamba": {}, "falcon_h1": {},
    "lfm2": {"full_attn_idxs": [2, 5]}, "olmo_hybrid": {}, "zamba": {},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 4},
    "bamba": {"attn_layer_indices": [1, 4]}, "granitemoehybrid": {"layer_types": HYBRID},
}  # fmt: skip


@pytest.mark.parametrize("name", FEW)
def test_the_cache_is_as_wide_as_the_model_s_own(name):
    config = tiny_config(name.strip(), **FEW[name])
    said = said_cache(config, TOKENS)
    assert said == as_long(cached_numbers(config, TOKENS), len(said))


@pytest.mark.parametrize(
    ("listed", "pictures"), [({"cross_attention_layers": [1, 5]}, [1, 5]), ({}, [3])]
)
def test_layers_that_look_at_pictures_keep_nothing_of_the_text(listed, pictures, tmp_path):
    from transformers import MllamaForCausalLM

    from support.command import run_ctxext

    config = tiny_config("mllama_text_model", **listed)
    kept = cached_numbers(config, TOKENS, MllamaForCausalLM)
    assert [index for index, numbers in enumerate(kept) if not numbers] == pictures
    text = {k: v for k, v in as_file(config).items() if listed or k != "cross_attention_layers"}
    model = write(tmp_path / "m", model_type="mllama", text_config=text, torch_dtype="bfloat16")
    done = run_ctxext("inspect", model, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kv_cache"]["bytes_at"]["4096"] == sum(kept) // TOKENS * 4096 * 2
    for layer, numbers in zip(found["layers"], kept, strict=True):
        assert (layer["attention"] == "full") == (numbers > 0)
        assert (layer["position_encoding"] == "rope") == (numbers > 0)
    shown = f"{len(pictures)} x no cache of the text's keys"
    assert shown in run_ctxext("inspect", model).stdout


# What classes of transformers do with sizes that they do not expect.
FAILURES = (
    StrictDataclassError, ValueError, RuntimeError, TypeError, AttributeError, KeyError,
    ImportError,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("model_type", TYPES)
def test_no_cache_is_said_to_be_what_it_is_not(model_type):
    try:
        config = tiny_config(model_type)
    except FAILURES as error:
        pytest.skip(f"no config of this size: {error}")
    try:
        said = said_cache(config, TOKENS)
    except BadInput as refusal:
        pytest.skip(f"refused: {refusal}")
    if said is None:
        pytest.skip("said to be unknown")
    try:
        measured = cached_numbers(config, TOKENS)
    except FAILURES as error:
        pytest.skip(f"its class does not run at this size: {error}")
    if measured is None:
        pytest.skip("its class keeps no such cache")
    assert said == as_long(measured, len(said), model_type)


BASE = {"num_hidden_layers": 8, "hidden_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 4096,
        "rope_theta": 10000.0}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "encoding"),
    [
        ({"model_type": "bert"}, "learned"),
        ({"model_type": "xlm-roberta"}, "learned"),
        ({"model_type": "mpt", "attn_config": {"alibi": False}}, "alibi"),
        ({"model_type": "marian"}, "sinusoidal"),
        ({"model_type": "jamba"}, "none"),
        ({"model_type": "zamba2"}, "none"),
        ({"model_type": "zamba2", "use_mem_rope": True}, "rope"),
        ({"model_type": "granitemoehybrid"}, "none"),
        ({"model_type": "granitemoehybrid", "position_embedding_type": "rope"}, "rope"),
        ({"model_type": "olmo_hybrid", "rope_theta": None}, "none"),
        ({"model_type": "olmo_hybrid"}, "rope"),
        ({"model_type": "exaone4", "sliding_window": 1024}, "mixed"),
        ({"model_type": "exaone4", "sliding_window": None}, "rope"),
        ({"model_type": "afmoe"}, "mixed"),
        ({"model_type": "smollm3"}, "mixed"),
        ({"model_type": "llama4_text"}, "mixed"),
        ({"model_type": "llama4_text", "no_rope_layers": [1] * 8}, "rope"),
        ({"model_type": "xlnet"}, None),
        ({"model_type": "nobody-knows", "rope_theta": None}, None),
        ({"model_type": "nobody-knows"}, "rope"),
    ],
)
def test_which_encoding_a_family_s_keys_mean(changes, encoding):
    position = read(BASE | changes)
    assert position.encoding == encoding
    if encoding is None:
        assert any("ctxext" in warning for warning in position.warnings)


def test_alternating_layers_of_gpt_neo():
    types = [[["global", "local"], 3], [["local"], 2]]
    config = CONFIG_MAPPING["gpt_neo"](num_layers=8, attention_types=types)
    position = read(as_file(config))
    words = {"global": "full", "local": "sliding"}
    assert [layer.attention for layer in position.layers] == [
        words[kind] for kind in config.attention_layers
    ]
    assert {layer.window for layer in position.layers} == {None, config.window_size}


def test_a_family_without_a_window_is_read_without_one():
    config = CONFIG_MAPPING["recurrent_gemma"](num_hidden_layers=6)
    position = read(as_file(config))
    assert (position.stated_window, position.rope) == (None, None)
    assert position.encoding == "partial-rope"
    with pytest.raises(BadInput, match="window is unknown"):
        _ = position.window


def test_bases_that_two_versions_read_otherwise_are_unknown():
    position = read({"model_type": "dbrx", "n_layers": 2, "d_model": 64, "n_heads": 4,
                     "max_seq_len": 2048,
                     "attn_config": {"kv_n_heads": 2, "rope_theta": 5e5}})  # fmt: skip
    assert position.rope is None
    assert position.kv_heads == 2
    assert any("rope_theta" in warning for warning in position.warnings)


def test_layers_without_rope_are_those_of_the_class():
    position = read(BASE | {"model_type": "smollm3", "no_rope_layer_interval": 2})
    config = CONFIG_MAPPING["smollm3"](num_hidden_layers=8, no_rope_layer_interval=2)
    rotates = [layer.position_encoding == "rope" for layer in position.layers]
    assert rotates == [bool(flag) for flag in config.no_rope_layers]


def test_repeated_keys_of_falcon_are_not_counted():
    position = read(BASE | {"model_type": "falcon", "new_decoder_architecture": True,
                            "num_kv_heads": 2})  # fmt: skip
    assert position.kept is None
    assert any("transformers keeps 4 heads" in warning for warning in position.warnings)


def test_latent_attention_turns_a_part_of_a_head():
    config = tiny_config("deepseek_v3")
    position = read(as_file(config))
    assert position.encoding == "partial-rope"
    assert (position.rope.spec.rotary_dim, position.rope.head_dim) == (8, 24)
    assert position.kept == 24 + 8


def test_two_attentions_a_layer_are_counted_once_where_4_57_wrote_both_numbers():
    config = tiny_config("longcat_flash")
    both = read(as_file(config), num_hidden_layers=2 * config.num_layers)
    assert len(both.layers) == config.num_layers
    cached = sum(cached_numbers(config, TOKENS))
    assert both.kept * len(both.layers) * TOKENS == cached


def write(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_a_model_without_attention_is_called_that(tmp_path):
    from support.command import run_ctxext

    model = write(tmp_path / "m", model_type="mamba2", num_hidden_layers=4, hidden_size=64,
                  num_heads=8, head_dim=16, torch_dtype="bfloat16")  # fmt: skip
    document = inspect(model).to_dict()
    assert document["position_encoding"] == "none"
    assert document["window"] == {"original": None, "current": None, "source": None}
    assert document["kv_cache"]["bytes_per_token"] == 0
    assert any("mamba2 has no attention" in warning for warning in document["warnings"])
    shown = run_ctxext("inspect", model)
    assert "unknown" in shown.stdout
    assert "full attention" not in shown.stdout
    refused = run_ctxext("extend", model, "--target", "8k", "--dry-run")
    assert refused.returncode == 2


def test_blocks_of_xlstm_are_its_layers(tmp_path):
    from support.command import run_ctxext

    config = CONFIG_MAPPING["xlstm"](num_blocks=6, embedding_dim=64, num_heads=4)
    assert config.num_blocks == 6  # of which its class makes the model
    model = write(tmp_path / "m", model_type="xlstm", num_blocks=6, embedding_dim=64, num_heads=4)
    done = run_ctxext("inspect", model, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["position_encoding"], len(found["layers"])) == ("none", 6)
    refused = run_ctxext("extend", model, "--target", "8k", "--dry-run")
    assert refused.returncode == 2


TEXT = {"num_hidden_layers": 2, "max_position_embeddings": 64, "vocab_size": 256}
PICTURES = {"num_hidden_layers": 2, "image_size": 224}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"llm_config": TEXT, "vision_config": PICTURES}, "under llm_config, which"),
        ({"thinker_config": {"text_config": TEXT, "vision_config": PICTURES}},
         "under thinker_config.text_config, which"),
        ({"talker_config": TEXT, "thinker_config": {"text_config": TEXT}},
         "under talker_config, thinker_config.text_config, which"),
        ({"vision_config": PICTURES}, "no num_hidden_layers\n"),
    ],
)  # fmt: skip
def test_a_decoder_under_a_key_that_is_not_read_is_named(parts, words, tmp_path):
    from support.command import run_ctxext

    refused = run_ctxext("inspect", write(tmp_path / "m", model_type="nobody-knows", **parts))
    assert refused.returncode == 2
    assert words in refused.stderr


def test_what_is_not_known_is_null_and_said(tmp_path):
    from support.command import run_ctxext

    model = write(tmp_path / "m", **BASE, model_type="nobody-knows", torch_dtype="bfloat16")
    document = inspect(model).to_dict()
    assert document["kv_cache"] == {"bytes_per_token": None, "bytes_at": {}}
    assert {layer["attention"] for layer in document["layers"]} == {None}
    assert any("'nobody-knows' is not known" in warning for warning in document["warnings"])
    shown = run_ctxext("inspect", model).stdout
    assert "8 x unknown attention" in shown


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_position_embeddings": None, "max_sequence_length": 4096},
         ["states a window", "max_sequence_length says 4096"]),
        ({"rope_type": "ntk", "orig_max_position_embeddings": 2048, "rope_interleave": True},
         ["makes of rope_type, orig_max_position_embeddings is not known"]),
        ({"rope_freq_constant": 5e5}, ["makes of rope_freq_constant is not known"]),
    ],
)  # fmt: skip
def test_a_rope_of_an_unknown_type_that_cannot_be_read_is_unknown(changes, words, tmp_path):
    from support.command import run_ctxext

    model = write(tmp_path / "m", **{**BASE, "model_type": "nobody-knows", **changes})
    done = run_ctxext("inspect", model, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["rope"] is None
    assert found["window"]["original"] == changes.get("max_position_embeddings", 4096)
    said = " ".join(found["warnings"])
    assert all(each in said for each in words), said
    refused = run_ctxext("extend", model, "--target", "32k", "--dry-run")
    assert refused.returncode == 2
    plain = read(BASE | {"model_type": "nobody-knows", "rope_type": "default"})
    assert plain.rope.block.rope_theta == 1e4


def test_of_ropes_by_layer_type_that_of_the_far_layers_is_read():
    config = CONFIG_MAPPING["gemma3_text"](num_hidden_layers=6)
    position = read(as_file(config))
    assert (position.encoding, position.rope.block.rope_theta) == ("rope", 1e6)
    assert any("windowed layers by a rope of their own" in each for each in position.warnings)
    assert [layer.attention for layer in position.layers] == ["sliding"] * 5 + ["full"]


@pytest.mark.parametrize("model_type", ["apertus", "cwm", "gpt_oss", "ministral3"])
@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"rope_theta": 5e5},
        {"rope_scaling": None, "rope_theta": 5e5},
        {"rope_parameters": None},
        {"rope_parameters": None, "rope_scaling": None, "rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 3e5}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "rope_theta": 5e5},
    ],
)
def test_the_rope_of_a_class_stands_in_wherever_the_file_has_no_block(model_type, keys):
    whole = CONFIG_MAPPING[model_type](**copy.deepcopy(keys)).to_dict()
    rope = {"rope_theta", "rope_scaling", "rope_parameters"}
    wanted = read(whole)
    got = read({key: value for key, value in whole.items() if key not in rope} | keys)
    assert got.rope.inv_freq == wanted.rope.inv_freq
    assert got.rope.attention_factor == wanted.rope.attention_factor
    assert got.window.original == wanted.window.original
    assert got.window.current == wanted.window.current
