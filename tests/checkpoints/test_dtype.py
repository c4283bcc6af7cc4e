"""The dtype of a computation follows the device, and what that costs is said."""

import pytest
import torch

from ctxext.checkpoints.config.dtype import compute_dtype, has_grouped_keys
from ctxext.checkpoints.live import load
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput
from support.checkpoints import build_tiny

AMPERE, TURING, VOLTA = (8, 0), (7, 5), (7, 0)


@pytest.mark.parametrize(
    ("asked", "stored", "name", "words"),
    [
        ("auto", "bfloat16", "bfloat16", None),
        ("auto", "float16", "bfloat16", "stored in float16, computed in bfloat16"),
        ("auto", "float32", "bfloat16", "stored in float32, computed in bfloat16"),
        ("auto", None, "bfloat16", None),
        ("bfloat16", "float16", "bfloat16", None),
        ("float16", "bfloat16", "float16", None),
        ("float32", "float32", "float32", "no fused attention for grouped keys in float32"),
    ],
)
def test_on_a_gpu(asked, stored, name, words):
    chosen = compute_dtype(
        asked, stored=stored, device_type="cuda", capability=AMPERE, grouped=True
    )
    assert chosen.name == name
    assert len(chosen.notes) == (words is not None)
    assert words is None or words in chosen.notes[0]


def test_float32_with_a_key_head_for_each_query_head_has_a_fused_kernel():
    chosen = compute_dtype("float32", stored="float32", device_type="cuda", capability=AMPERE)
    assert chosen.notes == ()


@pytest.mark.parametrize("capability", [TURING, VOLTA])
def test_no_bfloat16_before_ampere(capability):
    for asked in ("auto", "bfloat16"):
        with pytest.raises(BadInput, match="has no bfloat16") as caught:
            compute_dtype(asked, stored="bfloat16", device_type="cuda", capability=capability)
        assert "--device cpu" in caught.value.hint
    half = compute_dtype(
        "float16", stored="float16", device_type="cuda", capability=capability, grouped=True
    )
    assert "the square of the length" in half.notes[0]


def test_on_a_cpu_it_is_float32_unless_asked():
    for stored in ("float32", "float16", "bfloat16"):
        assert compute_dtype("auto", stored=stored, device_type="cpu").name == "float32"
    assert compute_dtype("bfloat16", stored="float32", device_type="cpu").name == "bfloat16"
    four_bits = compute_dtype("auto", stored="float16", device_type="cpu", quantized=True)
    assert four_bits.name == "bfloat16"


def test_grouped_keys_by_the_config():
    assert has_grouped_keys({"num_attention_heads": 8, "num_key_value_heads": 2})
    assert has_grouped_keys({"text_config": {"num_attention_heads": 8, "num_key_value_heads": 2}})
    assert not has_grouped_keys({"num_attention_heads": 8, "num_key_value_heads": 8})
    assert not has_grouped_keys({"num_attention_heads": 8})


def test_a_float16_checkpoint_is_loaded_in_bfloat16_for_a_gpu(tmp_path, monkeypatch):
    """The policy is asked as on an A100; the weights stay here."""
    opened = open_checkpoint(str(build_tiny(tmp_path / "half", dtype="float16")))

    def as_on_a_gpu(asked, **kwargs):
        return compute_dtype(asked, **kwargs | {"device_type": "cuda", "capability": AMPERE})

    monkeypatch.setattr(load, "compute_dtype", as_on_a_gpu)
    notes = []
    model = load.load_model(opened.source, opened.position, on_note=notes.append)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert notes == ["stored in float16, computed in bfloat16, as --dtype auto does on a GPU"]
