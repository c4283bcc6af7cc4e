"""What can be checked is checked before the first step, and in the dry run: nothing is written."""

import json

import pytest

from support.bad_inputs import copy_of, names, refused
from support.command import run_ctxext

SHORT = ["--seq-length", 64, "--steps", 2, "--gradient-accumulation", 1, "--warmup-steps", 0]


def damaged(folder):
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:300])


def without_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


CASES = {
    "merge-dtype": (["--merge-dtype", "x"], None, 2, "--merge-dtype is 'x'"),
    "targets": (["--lora-targets", "nothing"], None, 2, "lora.targets names 'nothing'"),
    "infinite": (["--set", "train.lr=.inf"], None, 2, "train.lr is inf", "at most 100"),
    "hub-name": (["--data", "hf:"], None, 2, "names no dataset"),
    "tracker": (["--report-to", "nobody"], None, 2, "nobody"),
    "tokenizer": ([], damaged, 2, "tokenizer.json cannot be used"),
    "tensors": ([], without_a_tensor, 1, "model.norm.weight"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dry", [True, False])
def test_what_fails_later_is_refused_before_the_first_step(tmp_path, tiny_llama, book, case, dry):
    flags, damage, code, *words = CASES[case]
    model = copy_of(tiny_llama, tmp_path / "m")
    if damage is not None:
        damage(model)
    data = [] if case == "hub-name" else ["--data", book]
    mode = ["--dry-run"] if dry else ["-o", tmp_path / "out"]
    refused(run_ctxext("finetune", model, *data, *SHORT, *flags, *mode), code, *words)
    assert names(tmp_path) == ["m"]


@pytest.mark.parametrize("name", ["my--model", "a..b", "x.git", "x" * 97, "org/a--b"])
def test_what_can_be_no_repository(name):
    refused(run_ctxext("inspect", name), 2, name[:80], "no Hub repository id")


def test_a_wrong_path_is_told_nothing_of_python(tmp_path):
    done = run_ctxext("inspect", tmp_path / "nowhere")
    refused(done, 2, "nowhere does not exist")
    assert "repo_type" not in done.stderr


def test_a_dataset_of_the_hub_is_no_folder_here(tmp_path, tiny_llama):
    script = tmp_path / "folder"
    script.mkdir()
    (script / "folder.py").write_text("raise SystemExit('this must not be run')")
    done = run_ctxext("eval-ppl", tiny_llama, "--data", f"hf:{script}", "--lengths", 64)
    refused(done, 2, "is a file or folder here", "leave out hf:")


def test_a_cache_that_cannot_be(tmp_path, tiny_llama, book):
    (tmp_path / "file").write_text("")
    for command in (
        ("eval-ppl", tiny_llama, "--data", book, "--lengths", 64),
        ("finetune", tiny_llama, "--data", book, *SHORT, "--dry-run"),
    ):
        done = run_ctxext(*command, env={"CTXEXT_CACHE": str(tmp_path / "file/cache")})
        refused(done, 2, "file is no folder", "CTXEXT_CACHE")


def test_rows_of_a_chat_name_their_fields(tmp_path, tiny_llama):
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}) + "\n")
    done = run_ctxext("eval-ppl", tiny_llama, "--data", path, "--lengths", 64)
    refused(done, 2, "it has: messages", "--field NAME")
