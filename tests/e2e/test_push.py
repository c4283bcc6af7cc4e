"""A run pushed by the real client to a server on loopback, and read back with from_pretrained."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from support.checkpoints import build_tiny
from support.command import run_ctxext
from support.hub_server import running_hub

READ_BACK = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("me/Tiny-512").eval()
local = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
ids = torch.tensor([AutoTokenizer.from_pretrained("me/Tiny-512")("x = 1\\n" * 60)["input_ids"]])
with torch.no_grad():
    assert torch.equal(model(ids).logits, local(ids).logits)
print(model.config.rope_parameters["rope_type"], model.config.max_position_embeddings)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, book):
    """base -> yarn -> a short fine-tuning run with an evaluation in it; made by the commands."""
    root = tmp_path_factory.mktemp("push")
    build_tiny(root / "base", shard="60KB")
    (root / "base" / "README.md").write_text(
        "---\nlicense: llama3.1\nlanguage:\n- en\n- no\n---\n# a base\n"
    )
    (root / "base" / "LICENSE").write_text("terms\n")
    for arguments in (
        ["extend", root / "base", "--target", 512, "-o", root / "yarn"],
        ["finetune", root / "yarn", "--data", book, "--steps", 2, "--gradient-accumulation", 1,
         "-o", root / "run"],
        ["eval-ppl", root / "base", root / "yarn", root / "run/merged", "--data", book,
         "--lengths", "128,512", "--tokens", 2048, "-o", root / "run/eval"],
        ["eval-retrieval", root / "base", root / "run/merged", "--tasks", "copy,passkey",
         "--lengths", "128,512", "--depths", "0.5", "--samples", 1, "-o", root / "run/retrieval"],
    ):  # fmt: skip
        done = run_ctxext(*arguments)
        assert done.returncode == 0, done.stderr
    return root / "run"


@pytest.fixture
def hub():
    with running_hub() as served:
        yield served


def env_for(hub, *, token=True):
    return {**hub.env, "HF_TOKEN": hub.token if token else ""}


def named_base(config):
    text = config if isinstance(config, bytes) else config.read_bytes()
    return json.loads(text)["base_model_name_or_path"]


def front_matter(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_pushed_and_read_back(tmp_path, run, hub):
    env = env_for(hub)
    done = run_ctxext("push", run, "--repo-id", "me/Tiny-512", "--private", "--json", env=env)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "ctxext.push/1"
    files = hub.repos["me/Tiny-512"]["main"]
    assert hub.private["me/Tiny-512"] is True
    assert {f["path"] for f in document["files"]} == set(files)
    assert {"README.md", "config.json", "ctxext.json", "LICENSE", "recipe.yaml"} <= set(files)
    assert {"perplexity.png", "eval-ppl.json", "log.jsonl"} <= set(files)
    assert {"retrieval.png", "eval-retrieval.json"} <= set(files)
    assert "adapter/adapter_model.safetensors" in files
    for path, data in files.items():  # no token and no path of this machine in anything public
        assert hub.token.encode() not in data, path
        assert str(run.parent).encode() not in data, path
    assert named_base(run / "adapter/adapter_config.json") == "./yarn"  # a folder, and no Hub id
    assert named_base(files["adapter/adapter_config.json"]) == "me/Tiny-512"
    assert any("merged in already" in warning for warning in document["warnings"])
    # Weights come first; the repository has no config before they are all there.
    commits = [p for m, p in hub.requests if "/commit/" in p]
    assert len(commits) == 2
    last_upload = max(i for i, (m, _) in enumerate(hub.requests) if m == "PUT")
    assert all("/commit/" not in p for _, p in hub.requests[:last_upload])

    read = subprocess.run(
        [sys.executable, "-c", READ_BACK, run / "merged"],
        capture_output=True, text=True, env={**os.environ, **env},
    )  # fmt: skip
    assert read.returncode == 0, read.stderr
    assert read.stdout.split() == ["yarn", "512"]

    # The pushed repository is a MODEL like any other.
    seen = run_ctxext("inspect", "me/Tiny-512", "--json", env=env)
    assert json.loads(seen.stdout)["window"]["current"] == 512


def test_the_card_says_what_was_measured(tmp_path, run):
    done = run_ctxext(
        "push", run, "--repo-id", "me/Tiny-512", "--base-model", "org/Tiny", "--dry-run", "--json"
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["dry_run"] is True
    assert document["url"] is None
    card = (run / "README.md").read_text()
    matter = front_matter(card)
    assert matter["base_model"] == "org/Tiny"
    assert matter["license"] == "llama3.1"
    assert matter["language"] == ["en", "no"]  # not YAML's false
    assert matter["library_name"] == "transformers"
    assert {"long-context", "yarn"} <= set(matter["tags"])
    measured = json.loads((run / "eval" / "eval-ppl.json").read_text())["results"]
    own = [r for r in measured if r["model"] == measured[-1]["model"]]
    metrics = matter["model-index"][0]["results"][0]["metrics"]
    values = {metric["args"]["length"]: metric["value"] for metric in metrics}
    assert values == {r["length"]: round(r["perplexity"], 4) for r in own}
    assert "extended from 128 to 512 tokens by `yarn`" in card
    assert "fine-tuned with LoRA for 2 steps" in card
    table = [line for line in card.splitlines() if line.startswith("| ")]
    labels = [line.split(" | ")[0] for line in table]
    assert {"| this model", "| base (base)", "| this model against its base"} <= set(labels)
    assert "not trained" not in card  # others are shown when asked for
    opening = card.index("## Perplexity")
    assert " nats at " in card[:opening]
    assert opening < card.index("## How to load it") < card.index("## What changed in the config")
    assert "| copy | this model |" in card
    assert "| copy | base (base) |" in card
    assert "![right answers by length and depth](retrieval.png)" in card
    assert "tasks, other languages" in card  # and not "retrieval" among what is not measured
    assert "Built with Llama" in card
    # Llama's license wants the name in front, and this name has it not
    assert any("begins with Llama" in w for w in document["warnings"])
    assert "vllm serve me/Tiny-512 --max-model-len 512" in card


def test_evaluations_that_are_named_are_shown_with_all_their_models(run):
    done = run_ctxext(
        "push", run, "--repo-id", "me/Tiny-512", "--base-model", "org/Tiny", "--dry-run",
        "--eval", run / "eval",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = (run / "README.md").read_text()
    assert "| yarn 4x (extended, not trained) |" in card
    assert "Not measured. Perplexity that stays low" in card  # the retrieval was not named
    missing = run_ctxext("push", run, "--repo-id", "me/x", "--dry-run", "--eval", run / "nothing")
    assert missing.returncode == 2
    assert "--eval" in missing.stderr


def test_an_extended_checkpoint_without_measurements(tmp_path, run):
    done = run_ctxext("push", run.parent / "yarn", "--repo-id", "me/x", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    card = (run.parent / "yarn" / "README.md").read_text()
    assert "config only, no training" in card
    assert "## Perplexity\n\nNot measured." in card
    assert any("not measured" in w for w in document["warnings"])
    assert not any(f["path"].startswith("adapter/") for f in document["files"])
    (run.parent / "yarn" / "README.md").unlink()


def test_what_is_not_read_is_not_published(tmp_path, run):
    """A stray adapter would be applied by all who load the repository; a template belongs there."""
    model = shutil.copytree(run.parent / "yarn", tmp_path / "yarn")
    shutil.copytree(run / "adapter", model, dirs_exist_ok=True)
    shutil.copyfile(next(model.glob("model-00001*")), model / "model-00009-of-00009.safetensors")
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    done = run_ctxext("push", model, "--repo-id", "me/x", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    files = {file["path"] for file in document["files"]}
    expected = {p.name for p in (run.parent / "yarn").iterdir()} | {"README.md"}
    assert files == expected | {"additional_chat_templates/tools.jinja"}
    for name in ("adapter_config.json", "model-00009-of-00009.safetensors"):
        assert any(name in warning for warning in document["warnings"])


def test_a_second_push_keeps_the_base_of_the_first(tmp_path, run, hub):
    env = env_for(hub)
    model = shutil.copytree(run, tmp_path / "run")
    for base in (["--base-model", "org/Tiny"], []):
        done = run_ctxext("push", model, "--repo-id", "me/Tiny-512", *base, "--json", env=env)
        assert done.returncode == 0, done.stderr
        files = hub.repos["me/Tiny-512"]["main"]
        matter = front_matter(files["README.md"].decode())
        assert (matter["base_model"], matter["license"]) == ("org/Tiny", "llama3.1")
        assert matter["language"] == ["en", "no"]
        assert named_base(files["adapter/adapter_config.json"]) == "org/Tiny"
    assert any("stays org/Tiny" in warning for warning in json.loads(done.stdout)["warnings"])
    # A card that ctxext did not write says nothing of this run's base.
    (model / "README.md").write_text("---\nbase_model: some/other\n---\n")
    done = run_ctxext("push", model, "--repo-id", "me/x", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "base_model" not in front_matter((model / "README.md").read_text())


def test_the_card_says_where_retrieval_would_be_counted(tmp_path, run):
    """And it is counted there."""
    model = shutil.copytree(run, tmp_path / "run")
    measured = (model / "retrieval").rename(tmp_path / "elsewhere")

    def card():
        done = run_ctxext("push", model, "--repo-id", "me/x", "--dry-run")
        assert done.returncode == 0, done.stderr
        return (model / "README.md").read_text()

    assert (
        "An `eval-retrieval.json` of this very checkpoint is counted when it lies in the pushed "
        "folder, in a folder directly in it, or in one directly in its merged/."
    ) in card()
    for folder in (model / "any", model / "merged" / "any", model):
        shutil.copytree(measured, folder, dirs_exist_ok=True, ignore=lambda *_: ["ctxext.json"])
        assert "is counted when" not in card()
        (folder / "eval-retrieval.json").unlink()


def test_a_cut_push_goes_on(tmp_path, run, hub):
    env = env_for(hub)
    hub.fail_uploads_after = 2
    done = run_ctxext("push", run, "--repo-id", "me/Tiny-512", "--json", env=env)
    assert done.returncode == 1
    assert "run the same command again" in json.loads(done.stdout)["hint"]
    assert "Traceback" not in done.stderr
    assert "config.json" not in hub.repos["me/Tiny-512"]["main"]
    sent = hub.uploads
    hub.fail_uploads_after = None
    done = run_ctxext("push", run, "--repo-id", "me/Tiny-512", env=env)
    assert done.returncode == 0, done.stderr
    assert "config.json" in hub.repos["me/Tiny-512"]["main"]
    distinct = len(hub.blobs)
    assert hub.uploads == distinct, f"{sent} were sent before the cut and none of them again"


def test_a_hub_whose_answers_stop_is_not_waited_for(tmp_path, hub):
    """An upload may be looked at for long before the answer begins, and no longer after that."""
    folder = tmp_path / "yarn"
    base = build_tiny(tmp_path / "base")
    assert run_ctxext("extend", base, "--target", 512, "-o", folder).returncode == 0
    hub.fails_by = "stalling"
    env = {**env_for(hub), "HF_HUB_DOWNLOAD_TIMEOUT": "2"}
    done = run_ctxext("push", folder, "--repo-id", "me/Tiny-512", env=env, timeout=100)
    assert done.returncode == 1
    assert "pushing to me/Tiny-512 failed: " in done.stderr


def test_pull_request_and_branch(tmp_path, run, hub):
    env = env_for(hub)
    done = run_ctxext("push", run, "--repo-id", "me/a", "--create-pr", env=env)
    assert done.returncode == 0, done.stderr
    assert hub.repos["me/a"]["main"] == {}
    assert "config.json" in hub.repos["me/a"]["refs/pr/1"]
    done = run_ctxext(
        "push", run, "--repo-id", "me/b", "--revision", "v2", "--base-model", "org/Tiny", env=env
    )
    assert done.returncode == 0, done.stderr
    assert named_base(hub.repos["me/b"]["v2"]["adapter/adapter_config.json"]) == "org/Tiny"
    assert hub.repos["me/b"]["main"] == {}
    assert "config.json" in hub.repos["me/b"]["v2"]


def test_the_same_run_gives_the_same_adapter_config(tmp_path, run, book):
    """Python orders a set of strings anew in every process, and peft keeps the targets in one."""
    done = run_ctxext(
        "finetune", run.parent / "yarn", "--data", book, "--steps", 2,
        "--gradient-accumulation", 1, "-o", tmp_path / "again", env={"PYTHONHASHSEED": "5"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    name = "adapter/adapter_config.json"
    assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()
    targets = json.loads((run / name).read_text())["target_modules"]
    assert len(targets) > 3
    assert targets == sorted(targets)


def test_what_cannot_be_pushed_is_refused(tmp_path, run, hub):
    def refused(*arguments, env=None, code=2):
        done = run_ctxext("push", *arguments, "--json", env=env)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        document = json.loads(done.stdout)
        assert document["schema"] == "ctxext.error/1"
        return document["error"] + " " + document["hint"]

    no_token = env_for(hub, token=False)
    assert "HF_TOKEN" in refused(run, "--repo-id", "me/x", env=no_token)
    assert "HF_HUB_OFFLINE" in refused(run, "--repo-id", "me/x")
    assert "no name of a repository" in refused(run, "--repo-id", "a/b/c")
    (run / "README.md").unlink(missing_ok=True)  # it names the base of an earlier push
    assert "nobody else can load" in refused(run, "--repo-id", "Tiny-512", "--dry-run")
    assert "no Hub id" in refused(run, "--repo-id", "me/x", "--base-model", "./yarn")
    assert "no run of ctxext" in refused(tmp_path, "--repo-id", "me/x")
    closed = {**env_for(hub), "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "run the same command again" in refused(run, "--repo-id", "me/x", env=closed, code=1)
    config = run / "merged" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"factor": 4.0', '"factor": 2.0'))
    try:
        assert "was changed after" in refused(run, "--repo-id", "me/x", "--dry-run", code=1)
    finally:
        config.write_text(text)
