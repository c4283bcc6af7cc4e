"""What an error carries beside its sentence: the argument and the path that can be mended."""

import json
from pathlib import Path

import pytest

import ctxext
from ctxext.errors import BadInput, CtxextError, about, is_disk_full


@pytest.mark.parametrize(
    ("sentence", "argument"),
    [
        ("--output-dir is missing", "output_dir"),
        ("the recipe fits no GPU; see --gpus and --shard", "gpus"),
        ("a -- b --- c", None),
        ("words-with--dashes", None),
        ("no flag", None),
    ],
)
def test_the_argument_is_the_first_flag_as_python_writes_it(sentence, argument):
    assert BadInput(sentence).argument == argument


def test_the_innermost_path_counts():
    with pytest.raises(CtxextError) as caught, about(Path("run")), about(Path("run/log.jsonl")):
        raise CtxextError("broken")
    assert caught.value.path == Path("run/log.jsonl")
    with pytest.raises(CtxextError) as caught, about(Path("run")):
        raise CtxextError("broken", path=Path("elsewhere"))
    assert caught.value.path == Path("elsewhere")


def test_a_python_caller_learns_what_to_mend(tmp_path, tiny_llama):
    with pytest.raises(BadInput) as missing:
        ctxext.extend(str(tiny_llama), target="2k")
    assert (missing.value.argument, missing.value.path) == ("output_dir", None)
    with pytest.raises(BadInput) as word:
        ctxext.extend(str(tiny_llama), target="2k", output_dir=tmp_path / "o", weights="moved")
    assert word.value.argument == "weights"
    with pytest.raises(BadInput) as existing:
        ctxext.extend(str(tiny_llama), target="2k", output_dir=tiny_llama)
    assert (existing.value.argument, existing.value.path) == ("output_dir", tiny_llama)

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    with pytest.raises(BadInput) as damaged:
        ctxext.inspect(str(broken))
    assert damaged.value.path == broken / "config.json"
    senseless = json.loads((tiny_llama / "config.json").read_text()) | {"rope_theta": -1}
    senseless.pop("rope_parameters", None)
    (broken / "config.json").write_text(json.dumps(senseless))
    with pytest.raises(BadInput) as refused:
        ctxext.inspect(str(broken))
    assert refused.value.path == broken / "config.json"


def test_a_full_disk_is_known_by_its_number_and_by_what_libraries_say():
    assert is_disk_full(OSError(28, "whatever it is called here"))
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(2, "No such file"))
