"""A fine-tuning run killed at a random step and resumed writes the losses of one that was not."""

import json
import random
import shutil
import signal

import pytest
from safetensors.torch import load_file, save_file

from support.command import run_ctxext, start_ctxext
from support.runs import kill, wait_for_step

STEPS = 14
OPTIONS = [
    "--seq-length", "256", "--steps", str(STEPS), "--batch-size", "2", "--lr", "1e-3",
    "--gradient-accumulation", "2", "--save-every", "3", "--set", "lora.dropout=0.1",
    "--train-norms", "--dtype", "float32", "--device", "cpu",
]  # fmt: skip


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [(line["loss"], line["grad_norm"], line["lr"], line["tokens"]) for line in lines]


@pytest.fixture(scope="module")
def extended(tmp_path_factory, tiny_llama):
    out = tmp_path_factory.mktemp("runs") / "yarn"
    assert run_ctxext("extend", tiny_llama, "--target", 512, "-o", out).returncode == 0
    return out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, extended, book):
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run_ctxext("finetune", extended, "--data", book, *OPTIONS, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["steps"] == STEPS
    return out


def start(extended, book, out, *more):
    return start_ctxext("finetune", extended, "--data", book, *OPTIONS, "-o", out, *more)


def test_sigkill_at_a_random_step(tmp_path, extended, book, uninterrupted):
    at = random.randint(1, STEPS - 2)
    out = tmp_path / "killed"
    process = start(extended, book, out)
    wait_for_step(process, out, at, may_end=True)
    kill(process)
    assert not (out / "merged").exists()
    done = run_ctxext("finetune", extended, "--data", book, *OPTIONS, "-o", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(uninterrupted), f"killed after step {at}"
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_who_starts_again_is_told_to_resume(tmp_path, extended, book):
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.yaml").write_text("{}")
    done = run_ctxext("finetune", extended, "--data", book, "-o", out, "--device", "cpu")
    assert done.returncode == 2
    assert "add --resume to go on with its run" in done.stderr


def test_sigterm_saves_and_exits_0(tmp_path, extended, book, uninterrupted):
    out = tmp_path / "stopped"
    process = start(extended, book, out)
    wait_for_step(process, out, 4, may_end=True)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    if "stopped after step" not in stdout:
        pytest.fail("the run ended before the signal came")
    done = run_ctxext("finetune", extended, "--data", book, *OPTIONS, "-o", out, "--resume")
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(uninterrupted)


def test_what_a_run_leaves(uninterrupted):
    names = {p.name for p in uninterrupted.iterdir()}
    assert names == {
        "adapter", "merged", "checkpoints", "log.jsonl", "loss.png", "recipe.yaml", "ctxext.json",
    }  # fmt: skip
    assert sorted(p.name for p in (uninterrupted / "checkpoints").iterdir()) == [
        "step-12",
        "step-14",
    ]
    line = json.loads((uninterrupted / "log.jsonl").read_text().splitlines()[0])
    assert set(line) == {
        "step", "loss", "grad_norm", "lr", "tokens", "tokens_per_second", "peak_memory_bytes",
        "seconds",
    }  # fmt: skip
    record = (uninterrupted / "ctxext.json").read_text()
    assert str(uninterrupted.parent) not in record
    assert json.loads(record)["training"]["steps"] == STEPS


def test_the_resolved_recipe_repeats_the_run(tmp_path, extended, uninterrupted):
    out = tmp_path / "again"
    recipe = uninterrupted / "recipe.yaml"
    done = run_ctxext(
        "finetune", extended, "--recipe", recipe, "-o", out, "--dtype", "float32", "--device", "cpu"
    )
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(uninterrupted)


def test_resume_needs_no_more_than_the_folder(tmp_path, extended, book, uninterrupted):
    """Model, text, flags and dtype are those of the run; what contradicts it is refused by key."""
    out = tmp_path / "killed"
    process = start(extended, book, out)
    wait_for_step(process, out, 4, may_end=True)
    kill(process)
    refusals = {
        ("--lr", "1e-2"): "train.lr 0.001 -> 0.01",
        ("--dtype", "bfloat16"): "--dtype: float32 -> bfloat16",
    }
    for flags, words in refusals.items():
        done = run_ctxext("finetune", "--resume", "-o", out, *flags)
        assert done.returncode == 2
        assert words in done.stderr
    done = run_ctxext("finetune", "--resume", "-o", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(uninterrupted)


def test_a_checkpoint_whose_bytes_changed_is_passed_over(tmp_path, book, uninterrupted):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    shutil.rmtree(out / "merged")
    file = out / "checkpoints" / "step-14" / "trained.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    done = run_ctxext("finetune", "--resume", "-o", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "a damaged checkpoint is passed over: step-14: the tensors of trained.safe" in said
    assert losses(out) == losses(uninterrupted)
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_another_model_is_not_gone_on_with(extended, book, uninterrupted, tiny_llama, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    other = tmp_path / "other"
    assert run_ctxext("extend", tiny_llama, "--target", 1024, "-o", other).returncode == 0
    done = run_ctxext("finetune", other, "--resume", "-o", out)
    assert done.returncode == 2
    assert "another MODEL" in done.stderr
    nothing = run_ctxext("finetune", "--resume", "-o", tmp_path / "nothing")
    assert nothing.returncode == 2
    assert "no run to go on with" in nothing.stderr


def test_a_base_is_extended_by_flags(tmp_path, tiny_llama, extended, book, uninterrupted):
    """--method and --target give the run that `extend` and `finetune` give one after the other."""
    out = tmp_path / "run"
    extend = ("--method", "yarn", "--target", 512)
    done = run_ctxext("finetune", tiny_llama, *extend, "--data", book, *OPTIONS, "-o", out)
    assert done.returncode == 0, done.stderr
    assert losses(out) == losses(uninterrupted)
    both = run_ctxext("finetune", tiny_llama, *extend, "--factor", 4, "--data", book, "-o", out)
    assert both.returncode == 2
    assert "extend.target and extend.factor contradict each other" in both.stderr
    plan = tmp_path / "config-only"
    plan.mkdir()
    shutil.copy(tiny_llama / "config.json", plan)
    done = run_ctxext("finetune", plan, *extend, "--dry-run", "--gpu", "h100-80gb", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["window"] == 512


def test_a_run_goes_on_only_with_what_it_was_begun_with(tmp_path, extended, book, uninterrupted):
    """Weights, text, dtype and recipe.yaml, each changed behind the run's back or beside it."""
    base, text = tmp_path / "base", tmp_path / "book.txt"
    shutil.copytree(extended, base)
    shutil.copy(book, text)
    out = tmp_path / "run"
    options = [option for option in OPTIONS if option not in ("--dtype", "float32")]
    process = start_ctxext("finetune", base, "--data", text, *options, "-o", out, "--eval-every", 3)
    wait_for_step(process, out, 5, may_end=True)
    kill(process)
    resume = ("finetune", "--resume", "-o", out, "--device", "cpu")

    def refused(*flags):
        done = run_ctxext(*resume, *flags)
        assert done.returncode in (1, 2), done.stderr
        return " ".join(done.stderr.split())

    assert "--resume and --overwrite contradict each other" in refused("--overwrite")
    assert "another --dtype: auto -> bfloat16" in refused("--dtype", "bfloat16")
    assert "validation.every 3 -> 2" in refused("--eval-every", 2)
    weights = base / "model.safetensors"
    kept = weights.read_bytes()
    tensors = load_file(weights)
    save_file({k: v + 1 for k, v in tensors.items()}, tmp_path / "other.safetensors")
    weights.unlink()  # a link to the fixture's
    shutil.copy(tmp_path / "other.safetensors", weights)
    assert "the weights of" in refused()
    weights.write_bytes(kept)
    text.write_text(book.read_text() + "one more line")
    assert "--data gives other tokens" in refused()
    moved = tmp_path / "moved.txt"
    shutil.copy(book, moved)
    text.unlink()
    assert "say where it lies now with --data TEXT" in refused()
    recipe = (out / "recipe.yaml").read_text()
    (out / "recipe.yaml").write_text(recipe.replace(f"model: {base}\n", ""))
    assert f"name it: ctxext finetune MODEL --resume -o {out}" in refused()
    (out / "recipe.yaml").write_text(recipe.replace(f"{base}\n", f"{tmp_path / 'gone'}\n"))
    assert "say where it lies now with ctxext finetune MODEL" in refused()
    (out / "recipe.yaml").write_text(recipe.replace("seed:", "steps: 1\n  seed:"))
    assert f"ctxext: {out}/recipe.yaml, line" in refused()
    (out / "recipe.yaml").write_text(recipe)
    done = run_ctxext(*resume, "--data", moved)
    assert done.returncode == 0, done.stderr


def test_a_run_killed_before_its_first_checkpoint_measures_once(tmp_path, extended, book):
    out = tmp_path / "run"
    flags = ("--save-every", 50, "--eval-every", 7)
    process = start(extended, book, out, *flags)
    wait_for_step(process, out, 4, may_end=True)
    kill(process)
    done = run_ctxext("finetune", "--resume", "-o", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(STEPS + 1))
