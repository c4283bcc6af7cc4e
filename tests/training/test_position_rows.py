"""`--train position-rows`: nothing but the new rows of a position table moves."""

import json

import pytest
import torch
from safetensors.torch import load_file

import ctxext
from ctxext.checkpoints.weights.files import read_weights
from ctxext.checkpoints.weights.new_rows import new_rows
from ctxext.encodings.learned import TableSpec, resampled
from ctxext.errors import BadInput
from ctxext.methods import get_method
from ctxext.runs.rows.record import RunRecord
from support.checkpoints import write_byte_tokenizer
from support.command import run_ctxext, start_ctxext
from support.not_rotary import build_not_rotary
from support.runs import kill, numbers, wait_for_step

WINDOW, TARGET = 32, 128
TABLE = {"gpt2": "transformer.wpe.weight", "opt": "model.decoder.embed_positions.weight"}


def extended(folder, name="gpt2", method="interpolate", dtype=None):
    """What `ctxext extend` writes, made here: a table of 128 rows of 32, and its record."""
    base = build_not_rotary(folder, name)
    path = base / "model.safetensors"
    tensors = load_file(path)
    offset = len(tensors[TABLE[name]]) - TARGET
    spec = TableSpec(WINDOW, offset)
    source = get_method(method)(spec, TARGET).source
    tensors[TABLE[name]] = resampled(tensors[TABLE[name]][: offset + WINDOW], spec, source)
    if dtype is not None:
        tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps(config | {"dtype": str(dtype)[6:]}))
    from safetensors.torch import save_file

    save_file(tensors, path, {"format": "pt"})
    record = {
        "schema": "ctxext.run/1", "kind": "extend", "method": method, "parameters": {"factor": 4},
        "window": {"original": WINDOW, "target": TARGET}, "rope": None, "versions": {},
        "command": "",
    }  # fmt: skip
    (base / "ctxext.json").write_text(json.dumps(record))
    write_byte_tokenizer(base, TARGET)
    return base


def options(book, steps=5):
    return [
        "--data", book, "--train", "position-rows", "--seq-length", TARGET, "--steps", steps,
        "--batch-size", 2, "--gradient-accumulation", 1, "--lr", "1e-2", "--save-every", 2,
        "--device", "cpu",
    ]  # fmt: skip


def test_which_rows_are_new():
    spec = {"window": {"original": 4, "target": 12}, "kind": "extend", "parameters": {"factor": 3}}
    marks = {}
    for method in ("interpolate", "group", "tile"):
        record = RunRecord.from_dict({"schema": "ctxext.run/1", "method": method, **spec})
        marks[method] = "".join(".x"[new] for new in new_rows(record, 14))
    assert marks == {
        "interpolate": "...xx.xx.xx.xx",  # two rows of no position, then E[0] 2 new E[1] ...
        "group": "...xx.xx.xx.xx",
        "tile": "......xxxxxxxx",
    }
    yarn = RunRecord.from_dict({"schema": "ctxext.run/1", "method": "yarn", **spec})
    assert new_rows(yarn, 14) == new_rows(None, 14) == [True] * 14


@pytest.mark.parametrize(
    ("name", "method", "dtype"),
    [("gpt2", "interpolate", None), ("opt", "interpolate", None), ("gpt2", "tile", torch.bfloat16)],
)
def test_the_new_rows_alone_move(tmp_path, book, name, method, dtype):
    base, out = extended(tmp_path / name, name, method, dtype), tmp_path / "run"
    done = run_ctxext("finetune", base, *options(book), "-o", out)
    assert done.returncode == 0, done.stderr
    before, after = (
        load_file(base / "model.safetensors"),
        load_file(out / "merged/model.safetensors"),
    )
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {TABLE[name]}
    assert after[TABLE[name]].dtype == before[TABLE[name]].dtype
    moved = (before[TABLE[name]] != after[TABLE[name]]).any(1)
    offset = len(moved) - TARGET
    if method == "tile":
        kept = list(range(offset + WINDOW))
    else:
        kept = [*range(offset), *range(offset, offset + (WINDOW - 1) * 4 + 1, 4)]
    wanted = torch.ones(len(moved), dtype=torch.bool)
    wanted[kept] = False
    assert not moved[kept].any()
    assert torch.equal(moved[:-1], wanted[:-1])  # what the last token of a row says is not scored
    assert not (out / "adapter").exists()
    assert f"{int(wanted.sum())} of {len(moved)} rows" in done.stderr
    record = json.loads((out / "merged/ctxext.json").read_text())
    assert record["training"]["recipe"]["train"]["what"] == "position-rows"
    assert record["method"] == method
    losses = [line[0] for line in numbers(out)]
    assert len(losses) == 5
    assert len(set(losses)) == 5


def test_without_a_record_all_rows_are_trained(tmp_path, book):
    base = extended(tmp_path / "gpt2")
    (base / "ctxext.json").unlink()
    out = tmp_path / "run"
    done = run_ctxext("finetune", base, *options(book, 2), "-o", out)
    assert done.returncode == 0, done.stderr
    before, after = (
        load_file(folder / "model.safetensors")[TABLE["gpt2"]] for folder in (base, out / "merged")
    )
    assert (before != after).any(1)[:-1].all()  # nothing is read after the last
    assert "no record tells which are new" in done.stderr


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path, book):
    base = extended(tmp_path / "gpt2")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    flags = options(book, 14)
    done = run_ctxext("finetune", base, *flags, "-o", whole)
    assert done.returncode == 0, done.stderr
    process = start_ctxext("finetune", base, *flags, "-o", killed)
    wait_for_step(process, killed, 5, may_end=True)
    kill(process)
    assert not (killed / "merged").exists()
    done = run_ctxext("finetune", "--resume", "-o", killed)
    assert done.returncode == 0, done.stderr
    assert numbers(killed) == numbers(whole)
    files = [folder / "merged/model.safetensors" for folder in (whole, killed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_it_is_planned(tmp_path, book):
    base = extended(tmp_path / "gpt2")
    done = run_ctxext("finetune", base, *options(book), "-o", tmp_path / "run", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert f"{TARGET * 64:,} of" in done.stdout
    assert not (tmp_path / "run").exists()


def test_other_shards_are_linked(tmp_path, book):
    from transformers import AutoModelForCausalLM

    base = extended(tmp_path / "gpt2")
    model = AutoModelForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="60KB")
    out = tmp_path / "run"
    assert run_ctxext("finetune", base, *options(book, 2), "-o", out).returncode == 0
    table, _ = read_weights(base).tensors[TABLE["gpt2"]]
    for file in read_weights(base).shards:
        linked = (base / file).stat().st_ino == (out / "merged" / file).stat().st_ino
        assert linked is (file != table)


def test_what_does_not_fit_is_refused(tmp_path, book):
    base = build_not_rotary(tmp_path / "bloom", "bloom")
    settings = {"data": {"source": str(book)}, "train": {"what": "position-rows", "seq_length": 64}}
    with pytest.raises(BadInput, match="the encoding of bloom is alibi"):
        ctxext.finetune(str(base), output_dir=tmp_path / "run", recipe=settings, device="cpu")
    settings["train"]["weight_decay"] = 0.1
    with pytest.raises(BadInput, match="knows no weight decay"):
        ctxext.finetune(str(base), output_dir=tmp_path / "run", recipe=settings, device="cpu")
    settings["train"].pop("weight_decay")
    with pytest.raises(BadInput, match="trains too little to be shared out"):
        ctxext.finetune(
            str(base), output_dir=tmp_path / "run", recipe=settings | {"parallel": {"shard": 2}}
        )
