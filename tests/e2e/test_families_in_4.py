"""Every family that 4.57 has: what `extend` writes is read there as in 5, or said not to be.

Run by `make test-slow`: needs the package index, and about 60 MB beside the tests' temp folder. All
checkpoints are written first; each release then reads them in one process.
"""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import support.read_by_transformers
from ctxext.engines._older import older_note
from ctxext.methods import get_method
from support.every_family import TYPES, built, decoder, planned
from support.old_transformers import install, python

pytestmark = pytest.mark.slow

VERSION = "4.57.6"
METHODS = ("yarn", "linear", "ntk", "ntk-by-parts", "llama3", "dynamic", "longrope")
# Their logits differ in the two releases without any extension: only the ropes are compared.
# Apertus' activation has bfloat16 parameters in 4.57; why Moshi's differ is not known.
OTHERWISE = {"apertus", "moshi"}
READER = support.read_by_transformers.__file__
NAMES = """
import json, sys
from pathlib import Path
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
Path(sys.argv[1]).write_text(json.dumps(list(CONFIG_MAPPING_NAMES)))
"""
WORDS = {"linear_attention": "mamba", "full_attention": "attention"}


def factors(position):
    """Two pairs slower, the rest as they were: unlike any other method."""
    pairs = position.rope.spec.rotary_dim // 2
    long_factor = [1.0] * (pairs - 1) + [3.0]
    if position.model_type == "phimoe":  # in 5 it reads the short list alone
        return {"long_factor": long_factor, "short_factor": long_factor}
    return {"long_factor": long_factor}


def plan(name, method):
    return planned(name, method, factors if method == "longrope" else lambda position: {})


def of_the_time(config):
    """The keys that 5 renames, as files of the hub have them."""
    config = dict(config)
    if config["model_type"] == "granitemoehybrid":
        config["layer_types"] = [WORDS.get(each, each) for each in config["layer_types"]]
    if config["model_type"] == "qwen3_moe":
        config["num_experts"] = config.get("num_local_experts", config.get("num_experts"))
    return config


def write_weights(folder, name, config):
    """Save weights of a decoder, with ids past its window beside them."""
    model = built(config)
    for parameter in model.parameters():  # far from zero, so that logits say something
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(of_the_time(decoder(name)[1])))
    torch.save(torch.randint(3, 60, (1, 128)), folder / "ids.pt")


@pytest.fixture(scope="module")
def old_release(tmp_path_factory):
    """(its folder, the types that it has a class for)."""
    work = tmp_path_factory.mktemp("release")
    path, names = install(VERSION, work / "transformers"), work / "names.json"
    python("-c", NAMES, names, path=path)
    return path, set(json.loads(names.read_text()))


@pytest.fixture(scope="module")
def written(tmp_path_factory, old_release):
    """{(type, method): (folder, position, patch)} of what is extended, one of each decoder."""
    root, checkpoints, decoders = tmp_path_factory.mktemp("families"), {}, {}
    for name in TYPES:
        for method in METHODS:
            try:
                config, position, patch = plan(name, method)
            except pytest.skip.Exception:
                continue
            if position.model_type not in old_release[1]:
                continue
            variant = position.model_type, name.partition("+")[2]
            if decoders.setdefault(variant, name) != name:
                continue
            base, folder = root / name, root / f"{name}.{method}"
            if not base.exists():
                write_weights(base, name, copy.deepcopy(config))
            shutil.copytree(base, folder, copy_function=os.link)
            (folder / "config.json").unlink()
            (folder / "config.json").write_text(json.dumps(of_the_time(patch.config)))
            checkpoints[name, method] = folder, position, patch
    return checkpoints


@pytest.fixture(scope="module")
def answers(written, old_release, tmp_path_factory):
    """What each release reads: ({folder: answer} of 4.57, of 5)."""
    work = tmp_path_factory.mktemp("answers")
    extended = [str(folder) for folder, _, _ in written.values()]
    rows = [*extended, *dict.fromkeys(each.rpartition(".")[0] for each in extended)]
    (work / "rows.json").write_text(json.dumps(rows))
    read = []
    for path in (old_release[0], None):
        python(READER, work / "rows.json", work / "read.json", path=path)
        document = json.loads((work / "read.json").read_text())
        assert (document["version"] == VERSION) == (path is not None)
        read.append(document["answers"])
    return read


def logits(answer):
    return torch.load(answer["logits"], weights_only=True)


def turns_as_meant(answer, extension):
    """Whether a rotary module has these frequencies and this attention factor."""
    meant = extension.inv_freq
    return any(
        len(turning := [each for each in inv_freq if each]) == len(meant)
        and turning == pytest.approx(meant, rel=1e-5)
        and factor == pytest.approx(extension.attention_factor, rel=1e-6)
        for inv_freq, factor in answer["ropes"]
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TYPES)
def test_what_is_extended_reads_alike_in_4_or_is_said_not_to(written, answers, name, method):
    if (name, method) not in written:
        pytest.skip("refused, not in 4.57, or the decoder of another type")
    folder, position, patch = written[name, method]
    old, new = (answer[str(folder)] for answer in answers)
    assert "error" not in new
    block, model_type = patch.extension.rope_block, position.model_type
    notes = older_note(model_type, str(block["rope_type"]), list(block))
    assert set(notes) <= set(patch.warnings)
    if notes:
        assert "error" in old or not torch.allclose(logits(old), logits(new), atol=1e-3)
        return
    assert "error" not in old, old
    follows = get_method(method).facts.follows_length or model_type == "phimoe"
    for answer in (old, new) if not follows else ():  # else computed in each forward pass
        assert turns_as_meant(answer, patch.extension)
    if model_type in OTHERWISE:
        return
    assert torch.allclose(logits(old), logits(new), atol=2e-5, rtol=1e-4)
    plain = answers[1][str(Path(folder).with_name(name))]
    assert not torch.allclose(logits(new), logits(plain), atol=1e-3)
