"""ctxext.json: what it may say of the base beside it, and what is never written into it."""

import json

import pytest

from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.provenance import command_line, origin_of, read_record
from ctxext.errors import BadInput

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "max_position_embeddings": 2048, "rope_theta": 40_000.0,
}  # fmt: skip


def written(folder, **keys):
    record = {"schema": "ctxext.run/1", "kind": "extend", **keys}
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "ctxext.json").write_text(json.dumps(record))
    return folder


def test_the_recorded_base_counts(tmp_path):
    written(tmp_path, rope={"original": {"window": 512, "rope_theta": 10_000}})
    opened = open_checkpoint(str(tmp_path))
    assert opened.position.window.original == 512
    assert opened.position.rope.spec.rope_theta == 10_000.0
    assert not opened.warnings


@pytest.mark.parametrize(
    "rope",
    [
        [1],
        "x",
        {"original": [1]},
        *({"original": {"window": w, "rope_theta": 1e4}} for w in (-5, 0, 1e30, "512", True, 4096)),
        *({"original": {"window": 512, "rope_theta": t}} for t in (-1, 0, 1, True, "1e4", 1e5)),
        {"original": {"window": 512, "rope_theta": float("nan")}},
        {"original": {"window": 512}},
    ],
)
def test_a_base_that_cannot_be_is_not_believed(tmp_path, rope):
    opened = open_checkpoint(str(written(tmp_path, rope=rope)))
    assert opened.position.window.original == 2048
    assert opened.position.rope.spec.rope_theta == 40_000.0
    assert any("not believed" in warning for warning in opened.warnings)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"method": ["yarn"]}, r"method is \['yarn'\]"),
        ({"window": {"original": 512}}, "in window, target is missing"),
        ({"base": {"config_sha256": "../x"}}, "in base, config_sha256 is '../x'"),
        ({"base": {"revision": "main"}}, "in base, revision is 'main'"),
        ({"extended_from": "org/base"}, "in extended_from, 'org/base' is no object"),
        ({"config_diff": {"a": [1]}}, "config_diff is"),
        ({"versions": "x"}, "versions is 'x'"),
        ({"training": {"steps": 1, "tokens": -1}}, "in training, tokens is -1"),
        ({"schema": "ctxext.run/9"}, "'ctxext.run/9', and this ctxext reads ctxext.run/1"),
        ({"parameters": 10**400}, "too large"),
    ],
)
def test_a_broken_record_is_refused_by_key(tmp_path, keys, words):
    written(tmp_path, **keys)
    for read in (read_record, origin_of):
        with pytest.raises(BadInput, match=words):
            read(tmp_path)


def test_deep_nesting_is_refused(tmp_path):
    (tmp_path / "ctxext.json").write_text('{"a":' * 100 + "1" + "}" * 100)
    with pytest.raises(BadInput, match="nested too deeply"):
        read_record(tmp_path)


def test_no_path_of_this_machine_in_a_command(tmp_path):
    line = command_line(["/usr/bin/ctxext", "extend", str(tmp_path / "base"), "--target", "4k"])
    assert line == "ctxext extend base --target 4k"
