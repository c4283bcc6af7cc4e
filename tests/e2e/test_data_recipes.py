"""`ctxext finetune` on several texts, on documents kept apart, and with skipped positions."""

import json
import random

import pytest

from support.command import run_ctxext

RUN = ["--steps", "4", "--batch-size", "2", "--gradient-accumulation", "1", "--lr", "1e-3"]
CPU = ["--dtype", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def extended(tmp_path_factory, tiny_llama):
    out = tmp_path_factory.mktemp("runs") / "yarn"
    assert run_ctxext("extend", tiny_llama, "--target", 1024, "-o", out).returncode == 0
    return out


@pytest.fixture(scope="module")
def shorts(tmp_path_factory):
    rng = random.Random(3)
    texts = ["".join(rng.choice("abcdefgh ") for _ in range(rng.randint(5, 90))) for _ in range(99)]
    path = tmp_path_factory.mktemp("text") / "shorts.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    return path


def finetune(extended, recipe, out, *more):
    path = out.parent / f"{out.name}.yaml"
    path.write_text(recipe)
    return run_ctxext("finetune", extended, "--recipe", path, *RUN, *CPU, "-o", out, *more)


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("documents", ["stream", "separate"])
def test_a_mixture_runs_resumes_and_repeats(tmp_path, extended, book, shorts, documents):
    recipe = (
        f"data: [{{source: {book}, weight: 2}}, "
        f"{{source: {shorts}, field: body, max_tokens: 60}}]\ntrain: {{seq_length: 256}}"
    )
    out = tmp_path / "run"
    more = ("--set", f"data.documents={documents}", "--save-every", "2")
    done = finetune(extended, recipe, out, *more)
    assert done.returncode == 0, done.stderr
    whole = losses(out)
    data = json.loads((out / "ctxext.json").read_text())["training"]["data"]
    assert data["source"] == "book.txt, shorts.jsonl"
    assert [entry["weight"] for entry in data["sources"]] == [2.0, 1.0]
    assert str(book.parent) not in (out / "ctxext.json").read_text()
    assert f"documents: {documents}" in (out / "recipe.yaml").read_text()

    resolved = tmp_path / "again"
    again = run_ctxext(
        "finetune", extended, "--recipe", out / "recipe.yaml", *CPU, "-o", resolved, "--quiet"
    )
    assert again.returncode == 0, again.stderr
    assert losses(resolved) == whole

    for leftover in (out / "checkpoints" / "step-4").iterdir():
        leftover.unlink()
    resumed = finetune(extended, recipe, out, *more, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert losses(out) == whole


def test_a_flag_stands_in_place_of_the_recipes_texts(tmp_path, extended, book):
    recipe = "data: [{source: nowhere.txt}]\ntrain: {seq_length: 256, steps: 1}"
    done = finetune(extended, recipe, tmp_path / "run", "--data", book)
    assert done.returncode == 0, done.stderr


def test_position_skipping_trains_for_the_window_at_the_rows_cost(tmp_path, extended, book):
    recipe = f"data: {{source: {book}}}\ntrain: {{pose_target: 1k}}"
    out = tmp_path / "run"
    done = finetune(extended, recipe, out)
    assert done.returncode == 0, done.stderr
    # Rows as long as the base's own window, 128.
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["tokens"] == 4 * 2 * 128
    assert (out / "merged" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("section", "message", "hint"),
    [
        ("train: {seq_length: 128, pose_target: 2k}", "train.pose_target 2048 is beyond the window",
         "--target 2048"),
        ("train: {seq_length: 512, pose_target: 256}", "train.pose_target is 256, shorter", ""),
        ("train: {seq_length: 2k}", "--seq-length 2048 is beyond the window", "--target 2048"),
    ],
)  # fmt: skip
def test_the_last_position_has_to_lie_in_the_window(
    tmp_path, extended, book, section, message, hint
):
    recipe = f"data: {{source: {book}}}\n{section}"
    done = finetune(extended, recipe, tmp_path / "run", "--json")
    assert done.returncode == 2, done.stderr
    error = json.loads(done.stdout)
    assert message in error["error"]
    assert hint in error["hint"]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("min_tokens: 8k", "data.sources[1] shorts.jsonl: min_tokens 8192 leaves none of its 99"),
        ("max_tokens: 5", "data.sources[1] shorts.jsonl has "),
        ("weight: 0", "weight is 0"),
    ],
)
def test_a_text_that_gives_no_row_is_named(tmp_path, extended, book, shorts, entry, message):
    recipe = (
        f"data: [{{source: {book}}}, {{source: {shorts}, field: body, {entry}}}]\n"
        "train: {seq_length: 256}"
    )
    done = finetune(extended, recipe, tmp_path / "run", "--json")
    assert done.returncode == 2, done.stderr
    assert message in json.loads(done.stdout)["error"]
    assert not (tmp_path / "run").exists()
