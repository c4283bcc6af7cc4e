"""ctxext.json beside a config: believed where it can be true, else said; never a traceback."""

import json

from hypothesis import given

from ctxext.checkpoints.opened import open_checkpoint
from ctxext.checkpoints.provenance import read_record
from support.fuzzing import answers, as_text, broken, broken_bytes, fuzzed

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
    "max_position_embeddings": 2048, "rope_theta": 40_000.0,
}  # fmt: skip
HASH = "ab" * 32
RECORD = {
    "schema": "ctxext.run/1",
    "kind": "finetune",
    "versions": {"ctxext": "0.1.0"},
    "base": {"id": "org/base", "revision": "a" * 40, "config_sha256": HASH, "index_sha256": None},
    "window": {"original": 256, "target": 2048},
    "rope": {"sha256": HASH, "original": {"window": 256, "rope_theta": 10_000.0}},
    "method": "ntk",
    "license": {"license": "mit"},
    "config_diff": {"rope_theta": [10_000.0, 40_000.0]},
    "training": {
        "steps": 2, "tokens": 4096, "final_loss": 1.5, "data": {"source": "a book"},
        "recipe": {"lora": {"rank": 8, "targets": ["q_proj"]}, "train": {"lr": 1e-4, "seed": 0}},
        "stages": [{"steps": 2, "tokens": 4096, "final_loss": 1.5, "window": 2048,
                    "method": "ntk", "seq_length": 2048, "lr": 1e-4}],
    },
    "command": "ctxext finetune base",
}  # fmt: skip


def beside(folder, record):
    """A checkpoint's folder with a record, as bytes."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "ctxext.json").write_bytes(record)
    return folder


def check(folder):
    opened, _ = answers(open_checkpoint, str(folder))
    if opened is not None:
        window = opened.position.window
        assert 1 <= window.original <= window.current == 2048
        assert 1 < opened.position.rope.spec.rope_theta <= 40_000.0
    answers(read_record, folder)


def test_a_record_is_believed(tmp_path):
    position = open_checkpoint(str(beside(tmp_path, json.dumps(RECORD).encode()))).position
    assert (position.window.original, position.window.source) == (256, "ctxext.json")
    assert position.rope.spec.rope_theta == 10_000.0


@fuzzed
@given(broken(RECORD))
def test_a_record_with_other_values(tmp_path_factory, record):
    check(beside(tmp_path_factory.getbasetemp(), as_text(record).encode()))


@fuzzed
@given(broken_bytes(json.dumps(RECORD).encode()))
def test_a_record_with_other_bytes(tmp_path_factory, record):
    check(beside(tmp_path_factory.getbasetemp(), record))
