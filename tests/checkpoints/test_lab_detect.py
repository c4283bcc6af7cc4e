"""The laboratory's decoder, whose config says by which of five encodings it is told positions."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctxext.api.extend import extend
from ctxext.api.inspect import inspect
from ctxext.checkpoints.config.detect import detect
from ctxext.encodings.alibi import AlibiSpec
from ctxext.encodings.learned import TableSpec
from ctxext.encodings.none import WindowSpec
from ctxext.encodings.rope import RopeSpec
from ctxext.errors import BadInput

LAB = {
    "model_type": "ctxext_lab", "architectures": ["LabForCausalLM"], "vocab_size": 256,
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 128, "block": "llama",
}  # fmt: skip
SPECS = {
    "rope": RopeSpec(16, 10_000.0, 128),
    "learned": TableSpec(128),
    "alibi": AlibiSpec(4, 128),
    "none": WindowSpec(128),
    "sinusoidal": WindowSpec(128),
}


def checkpoint(folder, encoding, **changes):
    """Its config beside weights that have nothing but a table of positions."""
    folder.mkdir()
    config = LAB | {"position_encoding": encoding} | changes
    if encoding == "rope":
        config |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
    (folder / "config.json").write_text(json.dumps(config))
    table = {"model.embed_positions.weight": torch.randn(128, 64)} if encoding == "learned" else {}
    held = table | {"model.norm.weight": torch.ones(64)}
    save_file(held, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("encoding", SPECS)
def test_each_encoding_is_read_and_extended(tmp_path, encoding):
    base = checkpoint(tmp_path / "base", encoding)
    config = json.loads((base / "config.json").read_text())
    position = detect(config, where="config.json")
    assert (position.encoding, position.spec) == (encoding, SPECS[encoding])
    assert [layer.attention for layer in position.layers] == ["full", "full"]
    done = extend(str(base), target=512, output_dir=tmp_path / "out")
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert after["max_position_embeddings"] == 512
    assert after["position_encoding"] == encoding
    if encoding == "rope":
        assert after["rope_parameters"]["rope_type"] == done.method == "yarn"
    if encoding == "learned":
        rows = load_file(tmp_path / "out" / "model.safetensors")["model.embed_positions.weight"]
        assert rows.shape == (512, 64)


def test_slopes_are_written_counted_from_the_base_and_taken_back(tmp_path):
    base = checkpoint(tmp_path / "base", "alibi", alibi_slope_factor=1.0)
    extend(str(base), method="slopes", target=512, output_dir=tmp_path / "one")
    assert json.loads((tmp_path / "one" / "config.json").read_text())["alibi_slope_factor"] == 4.0
    extend(str(tmp_path / "one"), method="slopes", target=1024, output_dir=tmp_path / "two")
    assert json.loads((tmp_path / "two" / "config.json").read_text())["alibi_slope_factor"] == 8.0
    extend(str(tmp_path / "two"), method="none", output_dir=tmp_path / "back")
    before, after = (
        json.loads((folder / "config.json").read_text()) for folder in (base, tmp_path / "back")
    )
    assert before == after


@pytest.mark.parametrize("factor", [0, -1, "two"])
def test_a_slope_factor_that_is_none(tmp_path, factor):
    base = checkpoint(tmp_path / "base", "alibi", alibi_slope_factor=factor)
    with pytest.raises(BadInput, match="alibi_slope_factor"):
        inspect(str(base)).to_dict()
    with pytest.raises(BadInput, match="alibi_slope_factor"):
        extend(str(base), method="slopes", target=512, dry_run=True)


def test_an_encoding_that_there_is_not():
    with pytest.raises(BadInput, match="position_encoding is 'alibbi', and there are sinusoidal"):
        detect(LAB | {"position_encoding": "alibbi"}, where="config.json")
