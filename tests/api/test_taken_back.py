"""Extending, extending again and taking back: exact inverses in the files."""

import itertools
import json
import shutil

import pytest

from ctxext.api.extend import extend
from ctxext.errors import BadInput
from ctxext.methods import METHODS, rope_methods
from support.checkpoints import build_tiny

EXTENDING = [method.name for method in rope_methods() if not method.takes_back]
FILES = ("config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json")


def given(name):
    """What a method has to be given, for the eight pairs of the tiny checkpoint."""
    required = METHODS[name].required
    return {"long_factor": [1, 1.5, 2, 3, 4, 5, 6, 8]} if "long_factor" in required else {}


def extended(base, name, target, out):
    return extend(str(base), method=name, target=target, parameters=given(name), output_dir=out)


def documents(folder):
    return {name: json.loads((folder / name).read_text()) for name in FILES
            if (folder / name).exists()}  # fmt: skip


def config_of(folder):
    return documents(folder)["config.json"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Saved by transformers 5, with lengths in the tokenizer that are the window's."""
    folder = build_tiny(tmp_path_factory.mktemp("taken") / "base")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    text = json.dumps(tokenizer | {"model_max_length": 128})
    (folder / "tokenizer_config.json").write_text(text)
    return folder


@pytest.mark.parametrize("first", EXTENDING)
def test_none_after_a_method_gives_every_file_back(tmp_path, base, first):
    extended(base, first, 512, tmp_path / "one")
    assert documents(tmp_path / "one") != documents(base)
    back = extend(str(tmp_path / "one"), method="none", output_dir=tmp_path / "back")
    assert documents(tmp_path / "back") == documents(base)
    assert (back.window.original, back.window.target) == (128, 128)
    assert back.method == "none"


@pytest.mark.parametrize(
    ("first", "second"), [(a, b) for a, b in itertools.product(EXTENDING, EXTENDING) if a != b]
)
def test_an_extension_of_an_extension_is_that_of_the_base(tmp_path, base, first, second):
    """Whatever was there before is replaced, never stacked; and all of it is taken back at once."""
    extended(base, first, 512, tmp_path / "one")
    extended(tmp_path / "one", second, 1024, tmp_path / "two")
    extended(base, second, 1024, tmp_path / "direct")
    assert config_of(tmp_path / "two") == config_of(tmp_path / "direct")
    extend(str(tmp_path / "two"), method="none", output_dir=tmp_path / "back")
    assert documents(tmp_path / "back") == documents(base)


@pytest.mark.parametrize("name", sorted(set(EXTENDING) - {"abf", "ntk"}))
def test_without_a_record_the_block_tells_the_original(tmp_path, base, name):
    extended(base, name, 512, tmp_path / "one")
    (tmp_path / "one" / "ctxext.json").unlink()
    back = extend(
        str(tmp_path / "one"), method="none", output_dir=tmp_path / "back",
        original_length=128 if name == "linear" else None,
    )  # fmt: skip
    assert any("no ctxext.json tells" in warning for warning in back.warnings)
    config, before = config_of(tmp_path / "back"), config_of(base)
    assert config["max_position_embeddings"] == 128
    assert config["rope_theta"] == before["rope_parameters"]["rope_theta"]
    assert config["rope_scaling"] is None
    assert config["rope_parameters"]["rope_type"] == "default"
    assert not {"dual_chunk_attention_config", "original_max_position_embeddings"} & set(config)
    tokenizer = documents(tmp_path / "back")["tokenizer_config.json"]
    assert tokenizer["model_max_length"] == 128
    shutil.copytree(tmp_path / "back", tmp_path / "bare")
    (tmp_path / "bare" / "ctxext.json").unlink()
    with pytest.raises(BadInput, match="no extension to take back"):
        extend(str(tmp_path / "bare"), method="none", output_dir=tmp_path / "again")


def test_a_window_that_no_file_says_has_to_be_given(tmp_path, base):
    extended(base, "linear", 512, tmp_path / "one")
    (tmp_path / "one" / "ctxext.json").unlink()
    with pytest.raises(BadInput, match="does not say its original window") as caught:
        extend(str(tmp_path / "one"), method="none", dry_run=True)
    assert "--original-length" in caught.value.hint


@pytest.mark.parametrize("name", ["abf", "ntk"])
def test_a_raised_base_without_a_record_cannot_be_known(tmp_path, base, name):
    extended(base, name, 512, tmp_path / "one")
    (tmp_path / "one" / "ctxext.json").unlink()
    with pytest.raises(BadInput, match="its rope is not scaled"):
        extend(str(tmp_path / "one"), method="none", output_dir=tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_an_edited_config_is_not_what_its_record_tells_of(tmp_path, base):
    extended(base, "yarn", 512, tmp_path / "one")
    path = tmp_path / "one" / "config.json"
    path.write_text(path.read_text().replace('"factor": 4.0', '"factor": 8.0'))
    with pytest.raises(BadInput, match="changed after ctxext wrote it"):
        extend(str(tmp_path / "one"), method="none", dry_run=True)


@pytest.mark.parametrize(
    "argument", [{"target": 512}, {"factor": 2.0}, {"sliding_window": "off"}], ids=str
)
def test_none_goes_nowhere_else(base, argument):
    with pytest.raises(BadInput, match="decides nothing: method none goes back"):
        extend(str(base), method="none", dry_run=True, **argument)


def test_what_is_not_extended_has_nothing_to_take_back(base):
    with pytest.raises(BadInput, match="no extension to take back"):
        extend(str(base), method="none", dry_run=True)


def test_a_second_taking_back_finds_nothing(tmp_path, base):
    extended(base, "p-rope", 512, tmp_path / "one")
    extend(str(tmp_path / "one"), method="none", output_dir=tmp_path / "back")
    with pytest.raises(BadInput, match="no extension to take back"):
        extend(str(tmp_path / "back"), method="none", dry_run=True)
    # and what is extended anew from there is taken back to the same
    extended(tmp_path / "back", "linear", 256, tmp_path / "anew")
    extend(str(tmp_path / "anew"), method="none", output_dir=tmp_path / "back2")
    assert config_of(tmp_path / "back2") == config_of(base)


def test_a_checkpoint_that_came_scaled_gets_its_own_scaling_back(tmp_path, base):
    """Llama 3.1 has llama3 scaling of its own: none takes back what ctxext did, and no more."""
    scaled = shutil.copytree(base, tmp_path / "scaled")
    config = config_of(base)
    block = {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 1e4,
    }  # fmt: skip
    config |= {"rope_parameters": block, "max_position_embeddings": 512}
    (scaled / "config.json").write_text(json.dumps(config))
    extended(scaled, "yarn", 1024, tmp_path / "one")
    back = extend(str(tmp_path / "one"), method="none", output_dir=tmp_path / "back")
    assert config_of(tmp_path / "back") == config
    assert (back.window.original, back.window.target) == (64, 512)
