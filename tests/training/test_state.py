"""A run's checkpoints: exact, no pickle, damaged ones passed over, other runs refused."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ctxext.errors import BadInput, CtxextError
from ctxext.machine.launch import Launch
from ctxext.runs.recipe.config import TrainConfig
from ctxext.runs.rows.training import RunState
from ctxext.training.run.state import (
    check_same_run,
    flat,
    newest_state,
    read_state,
    save_state,
    saved_steps,
    start_from,
    trained_file,
)
from ctxext.training.run.state_check import outline
from support.states import load_state

RECIPE = {"train": {"lr": 0.1, "steps": 4}, "lora": {"targets": ["a", "b"]}}


def toy():
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)
    )  # fmt: skip


def run(steps, out=None, start=None):
    """A few optimizer steps on a toy with dropout; returns its losses."""
    torch.manual_seed(0)
    model = toy()
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
            # One row of 8 tokens in each of the 8 passes of a step, as in version 0.1: no rows.
            done = RunState(step + 1, 64 * (step + 1), RECIPE, "data")
            save_state(out, done, model, optimizer)
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


def damaged(out, step, how):
    """A run's checkpoint, as versions before wrote it, without hashes of the bytes, with its
    tensors, or its numbers, changed by `how`.
    """
    folder = out / "checkpoints" / f"step-{step}"
    files = {name: load_file(folder / f"{name}.safetensors") for name in ("trained", "optimizer")}
    numbers = json.loads((folder / "state.json").read_text())
    for name in files:
        numbers.pop(f"{name}_sha256", None)
    numbers["tensors"] = outline(*files.values())
    how(files["trained"], files["optimizer"], numbers)
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / "state.json").write_text(json.dumps(numbers))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda t, o, n: n.update(step=10**9), "is of step 1000000000"),
        (lambda t, o, n: n.update(tokens="x"), "tokens is 'x'"),
        (lambda t, o, n: n.update(recipe=[]), r"recipe is \[\]"),
        (lambda t, o, n: n.update(recent_losses=[None]), "recent_losses is"),
        (lambda t, o, n: n.update(ranks=0), "ranks is 0"),
        (lambda t, o, n: n.update(ranks=2), "random numbers of rank 1 are missing"),
        (lambda t, o, n: t.pop("0.bias"), "tensor 0.bias is missing"),
        (lambda t, o, n: t.update(x=torch.zeros(1)), "tensor x is not trained"),
        (lambda t, o, n: t.update({"0.bias": torch.zeros(3)}), r"0.bias is \[3\]"),
        (lambda t, o, n: t.update({"0.bias": torch.zeros(8, dtype=torch.int64)}), "torch.int64"),
        (lambda t, o, n: o.clear(), "keeps nothing of the steps"),
        (lambda t, o, n: o.pop("exp_avg|0.bias"), "lacks exp_avg of 0.bias"),
        (lambda t, o, n: [o.pop(k) for k in list(o) if k.endswith("0.bias")], "not those that"),
        (
            lambda t, o, n: o.update({"exp_avg|0.bias": torch.zeros(3)}),
            r"exp_avg of 0.bias is \[3\]",
        ),
        (lambda t, o, n: o.update({"step|0.bias": torch.tensor(99.0)}), "count of steps of 0.bias"),
        (lambda t, o, n: o.update({"rng.cpu": torch.zeros(10, dtype=torch.uint8)}), "no state of"),
        (
            lambda t, o, n: o.update({"rng.cpu": torch.zeros(5056, dtype=torch.uint8)}),
            "no state of",
        ),
        (lambda t, o, n: o.pop("rng.cpu"), "random numbers of rank 0 are missing"),
        (lambda t, o, n: t["0.bias"].fill_(float("nan")), "0.bias holds numbers that are not fin"),
        (lambda t, o, n: t["2.bias"].fill_(float("-inf")), "2.bias holds numbers that are not fin"),
        (lambda t, o, n: o["exp_avg|0.bias"].fill_(float("nan")), "exp_avg of 0.bias holds numb"),
        (lambda t, o, n: o["exp_avg_sq|0.bias"].fill_(float("inf")), "exp_avg_sq of 0.bias holds"),
        (lambda t, o, n: o["exp_avg_sq|0.bias"][0].fill_(-1.0), "holds numbers below 0"),
    ],
)
def test_what_is_not_whole_is_passed_over_and_said(tmp_path, how, words):
    whole = run(6)
    run(4, out=tmp_path)
    damaged(tmp_path, 4, how)
    assert run(6, start=tmp_path) == whole[3:]  # from step 3
    model = toy()
    saved = read_state(tmp_path, RECIPE, "data", model)
    assert saved.state.step == 3
    assert re.search(words, saved.problems[0])
    damaged(tmp_path, 3, lambda t, o, n: n.update(step=4))
    with pytest.raises(CtxextError, match="every checkpoint"):
        read_state(tmp_path, RECIPE, "data", model)


def another_end(path):
    data = path.read_bytes()
    path.write_bytes(data[:-40] + bytes(255 - byte for byte in data[-40:]))


def no_moments(path):
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    zero = {name: torch.zeros_like(t) for name, t in tensors.items() if name.startswith("exp_avg")}
    save_file(tensors | zero, path, metadata)


def of_the_step_before(path):
    path.write_bytes((path.parents[1] / "step-3" / path.name).read_bytes())


@pytest.mark.parametrize("name", ["trained", "optimizer"])
@pytest.mark.parametrize("how", [another_end, no_moments, of_the_step_before])
def test_changed_bytes_are_damage(tmp_path, name, how):
    if (name, how) == ("trained", no_moments):
        pytest.skip("it has none")
    whole = run(6)
    run(4, out=tmp_path)
    how(tmp_path / "checkpoints" / "step-4" / f"{name}.safetensors")
    assert run(6, start=tmp_path) == whole[3:]  # from step 3
    assert read_state(tmp_path, RECIPE, "data", toy()).problems == (
        f"step-4: the tensors of {name}.safetensors are not those that were saved",
    )


def test_a_stage_does_not_begin_from_changed_bytes(tmp_path):
    run(4, out=tmp_path)
    start_from(trained_file(tmp_path, 4), toy(), Launch())
    another_end(trained_file(tmp_path, 4))
    with pytest.raises(CtxextError, match=r"step-4.* cannot be read: .*those that were saved"):
        start_from(trained_file(tmp_path, 4), toy(), Launch())


def test_what_is_not_finite_is_not_saved(tmp_path):
    run(2, out=tmp_path)
    model = toy()
    model[0].bias.data[3] = float("nan")
    with pytest.raises(CtxextError, match=r"step 3 is not saved: 0\.bias holds numbers that"):
        save_state(
            tmp_path, RunState(3, 0, RECIPE, "data"), model, torch.optim.AdamW(model.parameters())
        )
    assert saved_steps(tmp_path) == [1, 2]


def test_numbers_that_do_not_fit_the_recipe(tmp_path):
    run(2, out=tmp_path)
    saved = read_state(tmp_path, RECIPE, "data", toy(), TrainConfig(steps=1, seq_length=8))
    assert saved.problems == ("step-2: step 2 is beyond the 1 of the recipe",)
    for step in (1, 2):
        damaged(tmp_path, step, lambda t, o, n: n.update(rows_per_step=4, tokens=1))
    with pytest.raises(CtxextError, match="2 steps of 4 rows are not 1 tokens"):
        read_state(tmp_path, RECIPE, "data", toy(), TrainConfig(steps=4, seq_length=8))
    for step in (1, 2):  # what version 0.1 wrote has no rows, and tokens all the same
        damaged(tmp_path, step, lambda t, o, n: n.update(rows_per_step=0, tokens=0))
    with pytest.raises(CtxextError, match="2 steps of 8 rows are not 0 tokens"):
        read_state(tmp_path, RECIPE, "data", toy(), TrainConfig(steps=4, seq_length=8))


def test_damaged_checkpoints_make_room_for_good_ones(tmp_path):
    run(4, out=tmp_path)
    for step in (3, 4):  # kept: the two newest, both damaged
        (tmp_path / "checkpoints" / f"step-{step}" / "state.json").write_text("[")
    model = toy()
    save_state(
        tmp_path, RunState(1, 0, RECIPE, "data"), model, torch.optim.AdamW(model.parameters())
    )
    assert saved_steps(tmp_path) == [1]


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path):
    run(2, out=tmp_path)
    numbers = {"step": 2, "tokens": 0, "recipe": RECIPE, "data_sha256": "data"}
    (tmp_path / "checkpoints" / "step-2" / "state.json").write_text(json.dumps(numbers))
    assert read_state(tmp_path, RECIPE, "data", toy()).state.step == 2


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
    with pytest.raises(BadInput, match="the text or the tokenizer has changed"):
        load_state(tmp_path, RECIPE, "other", model, optimizer)
    # The same tokens are the same text, wherever it lies now.
    moved = RECIPE | {"data": {**RECIPE.get("data", {}), "source": "elsewhere.txt"}}
    state = newest_state(tmp_path)
    check_same_run(state, moved, "data")
    with pytest.raises(BadInput, match=r"data\.source"):
        check_same_run(state, moved, "other")


def test_a_run_may_go_on_compiled(tmp_path):
    run(2, out=tmp_path)
    model = toy()
    optimizer = torch.optim.AdamW(model.parameters())
    other = {
        **RECIPE,
        "train": {**RECIPE["train"], "compile": True},
        "memory": {"recompute": "all"},
    }
    assert load_state(tmp_path, other, "data", model, optimizer).step == 2


def test_a_recipe_is_compared_by_dotted_keys():
    assert flat({"a": {"b": 1, "c": (2,)}, "d": 3}) == {"a.b": 1, "a.c": [2], "d": 3}
    assert json.dumps(flat(RECIPE))
