"""Extending and training in one recipe, in stages: carried over exactly, killed, resumed."""

import json
import os
import re
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ctxext.api.extend import extend
from ctxext.api.finetune import finetune
from ctxext.api.merge import merge
from ctxext.api.push import push
from ctxext.errors import BadInput
from support.command import run_ctxext, run_launched, start_ctxext
from support.runs import kill, log_of, wait_for_step

STEPS = (4, 8)
PLACE = ["--device", "cpu", "--dtype", "float32"]
HERE = {"device": "cpu", "dtype": "float32"}


def recipe_of(book):
    """Linear to 256 tokens, then YaRN to 512; norms trained too, so that they must be carried."""
    return {
        "model": {"id": "of another command"},
        "eval": {"lengths": ["1k"]},
        "extend": {"method": "linear", "target": 256},
        "data": {"source": str(book)},
        "lora": {"train_norms": True},
        "train": {
            "steps": STEPS[0], "lr": 1e-2, "warmup_steps": 2, "gradient_accumulation": 2,
            "save_every": 3,
        },
        "stages": [
            {"train": {"batch_size": 1}},
            {
                "extend": {"method": "yarn", "target": 512, "parameters": {"beta_fast": 16}},
                "train": {"seq_length": 500, "steps": STEPS[1], "lr": 1e-3, "warmup_steps": 0},
            },
        ],
    }  # fmt: skip


def sections(recipe):
    """Without what the command line leaves to other commands."""
    return {key: value for key, value in recipe.items() if key not in ("model", "eval")}


def numbers(out):
    keys = ("step", "loss", "grad_norm", "lr", "tokens", "stage")
    return [tuple(line.get(key) for key in keys) for line in log_of(out)]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, book):
    path = tmp_path_factory.mktemp("recipe") / "stages.yaml"
    path.write_text(yaml.safe_dump(recipe_of(book)))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_llama, recipe):
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run_ctxext("finetune", tiny_llama, "--recipe", recipe, "-o", out, *PLACE, "--json")
    assert done.returncode == 0, done.stderr
    assert "stage 2 of 2" in done.stderr
    assert "names another base" not in done.stderr
    document = json.loads(done.stdout)
    assert (document["steps"], document["stage"]) == (sum(STEPS), None)
    assert document["tokens"] == log_of(out)[-1]["tokens"]
    return out


def test_what_a_run_with_stages_leaves(whole):
    assert {p.name for p in whole.iterdir()} == {
        "adapter", "extended", "merged", "stages", "log.jsonl", "loss.png", "recipe.yaml",
        "ctxext.json",
    }  # fmt: skip
    for number, kept in ((1, set()), (2, {"checkpoints"})):
        assert {p.name for p in (whole / "stages" / str(number)).iterdir()} == {
            "adapter", "extended", "log.jsonl", "ctxext.json", *kept,
        }  # fmt: skip
    lines = log_of(whole)
    assert [line["step"] for line in lines] == list(range(1, sum(STEPS) + 1))
    assert [line["stage"] for line in lines] == [1] * STEPS[0] + [2] * STEPS[1]
    assert [b["tokens"] - a["tokens"] for a, b in pairwise(lines)] == (
        [2 * 256] * (STEPS[0] - 1) + [2 * 500] * STEPS[1]
    )
    for name in ("extended", "merged"):
        config = json.loads((whole / name / "config.json").read_text())
        assert config["max_position_embeddings"] == 512
        assert config["rope_parameters"]["rope_type"] == "yarn"
        assert config["rope_parameters"]["beta_fast"] == 16
    weights = "model.safetensors"
    assert (whole / "extended" / weights).samefile(whole / "stages/2/extended" / weights)
    first = json.loads((whole / "stages/1/extended/config.json").read_text())
    assert first["rope_parameters"]["rope_type"] == "linear"


def test_its_record_and_its_card_are_those_of_a_run_by_hand(tmp_path, tiny_llama, whole):
    by_hand = tmp_path / "yarn"
    extend(
        str(tiny_llama), method="yarn", target=512, parameters={"beta_fast": 16}, output_dir=by_hand
    )
    hand, own = (json.loads((f / "ctxext.json").read_text()) for f in (by_hand, whole / "merged"))
    for key in ("method", "parameters", "config_diff", "window", "rope", "license"):
        assert own[key] == hand[key], key
    assert own["extended_from"] == hand["base"]
    training = own["training"]
    assert training["steps"] == sum(STEPS)
    assert [stage["steps"] for stage in training["stages"]] == list(STEPS)
    assert [stage["method"] for stage in training["stages"]] == ["linear", "yarn"]
    assert json.loads((whole / "adapter/adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == f"./{tiny_llama.name}"  # fmt: skip
    pushed = push(whole, repo_id="me/model", dry_run=True)
    card = (whole / "README.md").read_text()
    (whole / "README.md").unlink()
    assert "from 128 to 512 tokens by `yarn`" in card
    assert re.search(r"\| 1 +\| 256 +\| linear +\| 256 +\| 4 +\| 2,048 ", card), card
    assert re.search(r"\| 2 +\| 512 +\| yarn +\| 500 +\| 8 +\| 8,000 ", card), card
    assert {"adapter/adapter_model.safetensors", "log.jsonl", "recipe.yaml"} <= {
        file.path for file in pushed.files
    }


def test_the_adapter_belongs_on_the_extended_base(tmp_path, tiny_llama, book, whole):
    done = merge(whole / "adapter", base=str(whole / "extended"), output_dir=tmp_path / "merged")
    assert done.warnings == ()
    name = "merged/model.safetensors"
    assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    with pytest.raises(BadInput, match="trained under another rope"):
        merge(whole / "adapter", base=str(tiny_llama), output_dir=tmp_path / "wrong")
    row = torch.tensor([list(book.read_bytes()[:400])])
    plain = AutoModelForCausalLM.from_pretrained(whole / "extended", dtype=torch.float32)
    merged = AutoModelForCausalLM.from_pretrained(whole / "merged", dtype=torch.float32)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(plain, whole / "adapter")(row).logits
        torch.testing.assert_close(theirs, merged(row).logits, rtol=1e-4, atol=1e-4)


def test_the_second_stage_begins_from_what_the_first_trained(tmp_path, book, whole):
    """Its first loss is, by transformers alone, that of the first stage merged and extended."""
    first, second, stage = tmp_path / "first", tmp_path / "second", whole / "stages" / "1"
    merge(stage / "adapter", base=str(stage / "extended"), output_dir=first)
    extend(str(first), method="yarn", target=512, parameters={"beta_fast": 16}, output_dir=second)
    text = torch.tensor(list(book.read_bytes()))  # the tokenizer's ids are bytes
    order = np.random.default_rng((0, 0)).permutation(len(text) // 500)
    rows = torch.stack([text[n * 500 : (n + 1) * 500] for n in order[:2]])
    model = AutoModelForCausalLM.from_pretrained(second, dtype=torch.float32)
    with torch.no_grad():
        loss = float(model(rows, labels=rows).loss)
    begun = log_of(whole)[STEPS[0]]
    assert begun["loss"] == pytest.approx(loss, rel=1e-5)
    untrained = AutoModelForCausalLM.from_pretrained(whole / "extended", dtype=torch.float32)
    with torch.no_grad():
        assert abs(float(untrained(rows, labels=rows).loss) - loss) > 0.05
    assert begun["lr"] == 1e-3, "a schedule of its own, here without warm-up"


def start(base, recipe, out, *more):
    return start_ctxext("finetune", base, "--recipe", recipe, "-o", out, *PLACE, *more)


def test_stopped_then_killed_in_a_stage_and_resumed(tmp_path, tiny_llama, book, recipe, whole):
    out = tmp_path / "cut"
    process = start(tiny_llama, recipe, out)
    wait_for_step(process, out / "stages/2", 1)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert re.search(r"stopped after step \d+ in stage 2, saved", stdout), stdout
    assert not (out / "merged").exists()
    assert {line["stage"] for line in log_of(out)} == {1, 2}
    first = (out / "stages/1/log.jsonl").read_bytes()  # with its seconds, so never the same twice

    changed = sections(recipe_of(book))
    changed["stages"][0]["train"]["lr"] = 2.0
    with pytest.raises(BadInput, match=r"another recipe: stages\[0\]\.train\.lr 0\.01 -> 2\.0$"):
        finetune(str(tiny_llama), output_dir=out, recipe=changed, resume=True, **HERE)
    del changed["stages"]
    with pytest.raises(BadInput, match="--resume with another recipe"):
        finetune(str(tiny_llama), output_dir=out, recipe=changed, resume=True, **HERE)

    stopped_at = len(log_of(out / "stages/2"))
    process = start(tiny_llama, recipe, out, "--resume")
    wait_for_step(process, out / "stages/2", min(stopped_at + 1, STEPS[1] - 1))
    kill(process)
    assert not (out / "merged").exists()
    begun = []
    finetune(
        str(tiny_llama), output_dir=out, recipe=sections(recipe_of(book)), resume=True,
        on_start=lambda report: begun.append(report.notes[0]), **HERE,
    )  # fmt: skip
    assert begun == ["stage 2 of 2"]
    assert (out / "stages/1/log.jsonl").read_bytes() == first, "a complete stage ran again"
    assert numbers(out) == numbers(whole)
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_signal_in_the_first_stage_and_the_resolved_recipe(tmp_path, tiny_llama, whole):
    """`OUT/recipe.yaml` gives the same run; SIGTERM at a stage's last step ends it there."""
    recipe = yaml.safe_load((whole / "recipe.yaml").read_text())
    out = tmp_path / "again"

    def interrupt(task, done, total, detail):
        if task == "stage 1 of 2" and done == total:
            os.kill(os.getpid(), signal.SIGTERM)

    options = {"output_dir": out, "recipe": recipe, **HERE}
    stopped = finetune(str(tiny_llama), on_progress=interrupt, **options)
    assert (stopped.stopped, stopped.stage, stopped.steps) == (True, 1, STEPS[0])
    assert not (out / "stages/2").exists()
    assert json.loads((out / "ctxext.json").read_text())["training"]["steps"] == STEPS[0]

    def crash(task, done, total, detail):
        if task == "stage 2 of 2" and done == 2:  # logged, and before its first checkpoint
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        finetune(str(tiny_llama), resume=True, on_progress=crash, **options)
    assert len(log_of(out / "stages/2")) == 2
    assert not (out / "stages/2/checkpoints").exists()
    done = finetune(str(tiny_llama), resume=True, **options)
    assert (done.stopped, done.stage, done.steps) == (False, None, sum(STEPS))
    assert numbers(out) == numbers(whole)
    assert yaml.safe_load((out / "recipe.yaml").read_text()) == recipe
    (out / "merged/model.safetensors").unlink()  # a complete run resumed: merged again, no more
    assert finetune(str(tiny_llama), resume=True, **options).steps == sum(STEPS)
    name = "merged/model.safetensors"
    assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_extend_without_stages_is_extend_by_hand(tmp_path, tiny_llama, book):
    recipe = {
        "data": {"source": str(book)},
        "train": {"seq_length": 200, "steps": 2, "gradient_accumulation": 1},
    }
    hand, run, again = tmp_path / "hand", tmp_path / "run", tmp_path / "again"
    extend(str(tiny_llama), method="ntk", factor=4, output_dir=hand)
    finetune(str(hand), output_dir=tmp_path / "by-hand", recipe=recipe, **HERE)
    recipe["extend"] = {"method": "ntk", "factor": 4}
    finetune(str(tiny_llama), output_dir=run, recipe=recipe, **HERE)
    # Of what is extended otherwise already: from its original window.
    extend(str(tiny_llama), method="linear", target=256, output_dir=tmp_path / "linear")
    finetune(str(tmp_path / "linear"), output_dir=again, recipe=recipe, **HERE)
    for out in (run, again):
        assert numbers(out) == numbers(tmp_path / "by-hand")
        for name in ("config.json", "model.safetensors"):
            by_hand = (tmp_path / "by-hand" / "merged" / name).read_bytes()
            assert (out / "merged" / name).read_bytes() == by_hand
    assert "extend:" in (run / "recipe.yaml").read_text()
    assert "extend:" not in (tmp_path / "by-hand" / "recipe.yaml").read_text()
    assert {p.name for p in run.iterdir()} == {
        "adapter", "checkpoints", "extended", "merged", "log.jsonl", "loss.png", "recipe.yaml",
        "ctxext.json",
    }  # fmt: skip


def test_all_weights_and_a_stage_that_is_not_extended(tmp_path, tiny_llama, book):
    recipe = {
        "data": {"source": str(book)},
        "train": {"what": "full", "steps": 2, "gradient_accumulation": 1, "lr": 1e-3},
        "stages": [{}, {"extend": {"factor": 2}, "data": {"documents": "separate"}}],
    }
    out = tmp_path / "full"
    done = finetune(str(tiny_llama), output_dir=out, recipe=recipe, **HERE)
    assert done.adapter is None
    assert [line["tokens"] for line in log_of(out)] == [128, 256, 512, 768]
    assert not (out / "stages/1/extended").exists()
    record = json.loads((out / "ctxext.json").read_text())
    assert [stage["window"] for stage in record["training"]["stages"]] == [128, 256]
    assert "extend: null" in (out / "recipe.yaml").read_text()
    # Moved by AdamW's first steps, and by those of the second stage from there: about lr a step.
    before = load_file(tiny_llama / "model.safetensors")
    after = load_file(out / "merged/model.safetensors")
    moved = max(float((after[name] - tensor).abs().max()) for name, tensor in before.items())
    only = finetune(
        str(tiny_llama), output_dir=tmp_path / "one", recipe={**recipe, "stages": [{}]}, **HERE
    )
    assert only.steps == 2
    alone = load_file(tmp_path / "one/merged/model.safetensors")
    step = max(float((alone[name] - tensor).abs().max()) for name, tensor in before.items())
    assert moved > 1.5 * step > 0


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{}, {"extend": {"target": 64}}], r"stages\[1\]: extend\.target 64 is below the trained"),
        ([{"train": {"seq_length": 512}}], r"stages\[0\]: --seq-length 512 is beyond the window"),
        ([{}, {"extend": None}], r"stages\[1\]: --seq-length 200 is beyond the window of"),
        ([{}, {"data": {"source": "missing.txt"}}], r"stages\[1\]: .*missing\.txt"),
        ([{"parallel": {"context": 2}}], r"stages\[0\]: parallel\.context is 2 and 1 processes"),
    ],
)
def test_what_a_later_stage_asks_for_is_checked_before_the_first(
    tmp_path, tiny_llama, book, stages, message
):
    recipe = {
        "extend": {"target": 256},
        "data": {"source": str(book)},
        "train": {"seq_length": 200},
        "stages": stages,
    }
    with pytest.raises(BadInput, match=message):
        finetune(str(tiny_llama), output_dir=tmp_path / "out", recipe=recipe, **HERE)
    assert list(tmp_path.iterdir()) == []


def test_flags_beside_stages_that_say_the_same_are_refused(tmp_path, tiny_llama, recipe):
    out = tmp_path / "out"
    for more, words in (
        (["--steps", 3], "train.steps is for all stages of the recipe, and stages[1].train.steps"),
        (["--set", "stages[0].train.lr=1"], "nothing reaches into the stages"),
    ):
        done = run_ctxext("finetune", tiny_llama, "--recipe", recipe, "-o", out, *more)
        assert done.returncode == 2
        assert words in done.stderr
        assert not out.exists()


@pytest.mark.slow
def test_two_processes_take_the_same_stages(tmp_path, tiny_llama, book, recipe, whole):
    two = recipe_of(book)
    two["train"]["gradient_accumulation"] = 1  # two rows a step, as one process reads them
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(two))
    out = tmp_path / "two"
    done = run_launched("finetune", tiny_llama, "--recipe", path, "-o", out, *PLACE, "--json")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert len(numbers(out)) == sum(STEPS)
    for mine, theirs in zip(numbers(out), numbers(whole), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    (out / "stages/2/ctxext.json").unlink()  # resumed by one: the second stage, from its end
    again = run_ctxext("finetune", tiny_llama, "--recipe", recipe, "-o", out, *PLACE, "--resume")
    assert again.returncode == 2
    assert "stages[0].train.gradient_accumulation 1 -> 2" in again.stderr
    again = run_launched("finetune", tiny_llama, "--recipe", path, "-o", out, *PLACE, "--resume")
    assert again.returncode == 0, again.stderr
    assert "stage 1 of 2" not in again.stderr


def test_stages_go_on_beside_flags_and_one_alone_validates(tmp_path, tiny_llama, book):
    """What recipe.yaml spells out for each stage is what was said once, and says it again."""
    values = sections(recipe_of(book))
    del values["train"]["lr"], values["stages"][1]["train"]["lr"]
    values["stages"][1]["validation"] = {"every": 4, "keep_best": True}
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(yaml.safe_dump(values))
    start = ("finetune", tiny_llama, "--recipe", recipe, "-o", out, *PLACE, "--lr", "1e-3")
    process = start_ctxext(*start)
    wait_for_step(process, out / "stages" / "2", 4)
    kill(process)
    done = run_ctxext("finetune", "--resume", "-o", out, "--lr", "2e-3", "--device", "cpu")
    assert done.returncode == 2
    assert "stages[0].train.lr 0.001 -> 0.002" in done.stderr
    assert "validation" not in done.stderr
    same = ("--lr", "1e-3", "--recompute", "none", "--device", "cpu")
    done = run_ctxext("finetune", "--resume", "-o", out, *same)
    assert done.returncode == 0, done.stderr
    measured = [line["stage"] for line in log_of(out) if line.get("validation")]
    assert measured == [2, 2, 2]
