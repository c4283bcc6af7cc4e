"""Which keys of a config.json make a decoder: read again from the source of transformers."""

import inspect
import re
from pathlib import Path

import pytest
from transformers import PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ctxext.checkpoints.config.decoder_config import decoder_keys

FAMILIES = (
    "bloom", "cohere2", "falcon", "gemma2", "glm4", "gpt2", "gpt_neox", "gptj", "granite", "llama",
    "ministral", "mistral", "mixtral", "mpt", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe",
    "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
# Of classifiers, and of how a checkpoint is used; no decoder is made of them.
ELSEWHERE = {"classifier_dropout", "num_labels", "torch_dtype", "gradient_checkpointing"}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_a_family_s_files_read_reaches_its_class(model_type):
    family = CONFIG_MAPPING[model_type]
    read = set()
    for path in Path(inspect.getfile(family)).parent.glob("*.py"):
        if path.name.startswith(("modeling", "configuration")):
            text = path.read_text()
            read |= set(re.findall(r'getattr\((?:self\.)?config, ?"(\w+)"', text))
        if path.name.startswith("configuration"):
            read |= set(re.findall(r'kwargs\.(?:pop|get|setdefault)\(\s*"(\w+)"', text))
    assert read - ELSEWHERE <= decoder_keys(family)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_what_every_config_has_reaches_none(model_type):
    keys = decoder_keys(CONFIG_MAPPING[model_type])
    for key in (
        "num_labels", "id2label", "label2id", "architectures", "auto_map", "quantization_config",
        "attn_implementation", "_attn_implementation", "transformers_weights", "output_attentions",
        "output_hidden_states", "return_dict", "name_or_path", "pruned_heads", "per_layer_config",
    ):  # fmt: skip
        assert key not in keys, key
    assert "hidden_size" in keys
    assert PretrainedConfig().num_labels == 2  # what a class makes of its absence
