"""A run's checkpoints: exact, no pickle, damaged ones passed over, other runs refused."""

import json

import pytest
import torch

from ctxext.errors import BadInput, CtxextError
from ctxext.training.state import RunState, flat, load_state, save_state, saved_steps

RECIPE = {"train": {"lr": 0.1, "steps": 4}, "lora": {"targets": ["a", "b"]}}


def run(steps, out=None, start=None):
    """A few optimizer steps on a toy with dropout; returns its losses."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = RunState(0, 0, RECIPE, "data")
    if start is not None:
        state = load_state(start, RECIPE, "data", model, optimizer) or state
    losses = []
    for step in range(state.step, steps):
        x = torch.full((2, 4), float(step + 1))
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if out is not None:
            save_state(out, RunState(step + 1, 0, RECIPE, "data"), model, optimizer)
    return losses


def test_continues_bit_for_bit_and_keeps_two(tmp_path):
    whole = run(6)
    assert run(4, out=tmp_path) == whole[:4]
    assert saved_steps(tmp_path) == [3, 4]
    assert run(6, start=tmp_path) == whole[4:]
    names = {p.name for p in (tmp_path / "checkpoints" / "step-4").iterdir()}
    assert names == {"state.json", "trained.safetensors", "optimizer.safetensors"}


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    whole = run(6)
    run(4, out=tmp_path)
    file = tmp_path / "checkpoints" / "step-4" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert run(6, start=tmp_path) == whole[3:]
    (tmp_path / "checkpoints" / "step-3" / "state.json").write_text("{")
    with pytest.raises(CtxextError, match="every checkpoint"):
        run(6, start=tmp_path)


def test_half_written_folders_are_no_checkpoints(tmp_path):
    assert saved_steps(tmp_path) == []
    (tmp_path / "checkpoints" / "step-9").mkdir(parents=True)
    (tmp_path / "checkpoints" / ".tmp-x").mkdir()
    assert saved_steps(tmp_path) == []


def test_another_recipe_is_refused_by_key(tmp_path):
    run(2, out=tmp_path)
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    other = {"train": {"lr": 0.2, "steps": 4}, "lora": {"targets": ["a"]}}
    with pytest.raises(BadInput) as caught:
        load_state(tmp_path, other, "data", model, optimizer)
    assert "train.lr 0.1 -> 0.2" in str(caught.value)
    assert "lora.targets" in str(caught.value)
    with pytest.raises(BadInput, match="text of --data"):
        load_state(tmp_path, RECIPE, "other", model, optimizer)


def test_a_run_may_go_on_compiled(tmp_path):
    run(2, out=tmp_path)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    other = {
        **RECIPE,
        "train": {**RECIPE["train"], "compile": True},
        "memory": {"recompute": "all"},
    }
    assert load_state(tmp_path, other, "data", model, optimizer).step == 2


def test_flat():
    assert flat({"a": {"b": 1, "c": (2,)}, "d": 3}) == {"a.b": 1, "a.c": [2], "d": 3}
    assert json.dumps(flat(RECIPE))
