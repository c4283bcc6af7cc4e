"""A run's checkpoint that somebody broke: it goes on exactly, is passed over, or is refused."""

import json
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save

from ctxext.runs.recipe.config import TrainConfig
from ctxext.runs.rows.training import RunState
from ctxext.training.run.state import newest_state, read_state, restore, save_state
from support.fuzzing import answers, as_text, broken, broken_bytes, fuzzed

TRAIN = TrainConfig(steps=8, seq_length=16)
RECIPE = {"train": {"lr": 0.1, "steps": 8, "seq_length": 16}}
FILES = ("trained.safetensors", "optimizer.safetensors")
DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)


def model_and_optimizer():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with a checkpoint of its first two steps, as versions before wrote it: without hashes
    of the bytes, which would tell of every change at once.
    """
    out = tmp_path_factory.mktemp("run")
    model, optimizer = model_and_optimizer()
    for step in (1, 2):
        model(torch.ones(2, 4)).square().mean().backward()
        optimizer.step()
        save_state(
            out, RunState(step, step * 64, RECIPE, "d", 4, 1, (1.0,) * step), model, optimizer
        )
        folder = out / "checkpoints" / f"step-{step}"
        numbers = json.loads((folder / "state.json").read_text())
        del numbers["trained_sha256"], numbers["optimizer_sha256"]
        (folder / "state.json").write_text(json.dumps(numbers))
        for name in FILES:
            (folder / name).write_bytes(save(load_file(folder / name)))
    return out


@contextmanager
def replaced(out, name, data):
    """The run with one file of its newest checkpoint replaced, for a while."""
    path = out / "checkpoints" / "step-2" / name
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(whole)


def check_resumed(out):
    """What is read can be put in place and trained on; what is not is passed over."""
    model, optimizer = model_and_optimizer()
    answers(newest_state, out)
    known, _ = answers(read_state, out, RECIPE, "d", model, TRAIN)
    if known is None:
        return
    assert known.state.step == 2 - len(known.problems)
    rows = known.state.rows_per_step or TRAIN.batch_size * TRAIN.gradient_accumulation
    assert known.state.tokens == known.state.step * rows * TRAIN.seq_length
    restore(known, model, optimizer)
    model(torch.ones(2, 4)).square().mean().backward()
    optimizer.step()
    assert all(len(state) == 3 for state in optimizer.state.values())


def test_broken_numbers_of_a_state(saved):
    numbers = json.loads((saved / "checkpoints" / "step-2" / "state.json").read_text())

    @fuzzed
    @given(broken(numbers))
    def run(document):
        with replaced(saved, "state.json", as_text(document).encode()):
            check_resumed(saved)

    run()


@pytest.mark.parametrize("name", FILES)
def test_broken_tensors_of_a_state(saved, name):
    tensors = load_file(saved / "checkpoints" / "step-2" / name)

    @fuzzed
    @given(
        st.sampled_from(sorted(tensors)),
        st.sampled_from(["drop", "rename", "resize", "retype", "empty"]),
        st.sampled_from(DTYPES),
        st.lists(st.integers(0, 9), max_size=3),
    )
    def run(key, how, dtype, shape):
        changed = dict(tensors)
        if how == "empty":
            changed = {}
        elif how == "drop":
            del changed[key]
        elif how == "rename":
            changed[f"{key}x"] = changed.pop(key)
        elif how == "resize":
            changed[key] = torch.ones(shape, dtype=changed[key].dtype)
        else:
            changed[key] = changed[key].to(dtype)
        with replaced(saved, name, save(changed)):
            check_resumed(saved)

    run()


@pytest.mark.parametrize("name", FILES)
def test_broken_bytes_of_a_state(saved, name):
    whole = (saved / "checkpoints" / "step-2" / name).read_bytes()

    @fuzzed
    @given(broken_bytes(whole))
    def run(data):
        with replaced(saved, name, data):
            check_resumed(saved)

    run()
