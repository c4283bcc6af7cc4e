"""`--data hf:...` against a Hub on loopback, with the real `datasets` client."""

import io
import json

import pyarrow
import pyarrow.parquet as parquet
import pytest

from support.command import run_ctxext
from support.hub_server import running_hub

TEXTS = [f"row {n}: " + "the quick brown fox jumps over the lazy dog. " * 12 for n in range(40)]


@pytest.fixture
def hub(tmp_path):
    with running_hub() as hub:
        table = io.BytesIO()
        parquet.write_table(pyarrow.table({"text": TEXTS, "id": list(range(40))}), table)
        hub.datasets["me/books"] = {"data/train-00000-of-00001.parquet": table.getvalue()}
        hub.env["CTXEXT_CACHE"] = str(tmp_path / "cache")
        yield hub


def train(hub, model, out, *more, data="hf:me/books"):
    return run_ctxext(
        "finetune", model, "--data", data, "--seq-length", 64, "--steps", 2, "--json",
        "--gradient-accumulation", 1, "--output-dir", out, *more, env=hub.env,
    )  # fmt: skip


def test_a_dataset_is_read_once_and_again_when_it_has_changed(hub, tiny_llama, tmp_path):
    first = train(hub, tiny_llama, tmp_path / "a", "--set", "data.tokens=4k")
    assert first.returncode == 0, first.stderr
    record = json.loads((tmp_path / "a" / "ctxext.json").read_text())["training"]["data"]
    assert record["source"] == "hf:me/books"
    assert record["tokens"] == 4096
    fetched = sum("resolve" in path for _, path in hub.requests)
    assert fetched > 0
    hub.requests.clear()
    again = train(hub, tiny_llama, tmp_path / "b", "--set", "data.tokens=4k")
    assert again.returncode == 0, again.stderr
    assert not any("resolve" in path for _, path in hub.requests)  # from the token cache
    hub.sha = "b" * 40
    third = train(hub, tiny_llama, tmp_path / "c", "--set", "data.tokens=4k")
    assert third.returncode == 0, third.stderr
    assert any("resolve" in path for _, path in hub.requests)
    losses = [json.loads(run.stdout)["final_loss"] for run in (first, again, third)]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize(
    ("data", "words", "hint"),
    [
        ("hf:me/nothing", "me/nothing", ""),
        ("hf:me/books:default:train:body", "no text in the field 'body'; it has: text, id",
         "hf:me/books:default:train:NAME"),
    ],
)  # fmt: skip
def test_a_dataset_that_is_not_there(hub, tiny_llama, tmp_path, data, words, hint):
    done = train(hub, tiny_llama, tmp_path / "a", data=data)
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert words in json.loads(done.stdout)["error"]
    assert hint in json.loads(done.stdout)["hint"]
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("fails_by", "words"),
    [
        ((429, {"Retry-After": "100000"}), "the Hub answers 429, and to ask again in 100000 s"),
        ((429, {"RateLimit": '"api";r=0;t=90000'}), "answers 429, and to ask again in 90000 s"),
        pytest.param((503, {}), "the Hub answers 503", marks=pytest.mark.slow),  # asked six times
    ],
)
def test_a_hub_that_says_not_now(hub, tiny_llama, tmp_path, fails_by, words):
    hub.fails_by = fails_by
    hub.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "2"
    done = train(hub, tiny_llama, tmp_path / "a")
    assert done.returncode == 1, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error.startswith("--data hf:me/books could not be fetched: ")
    assert words in error


def test_rows_of_a_dataset_that_hold_null_are_left_out_and_said(hub, tiny_llama, tmp_path):
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": [None, *TEXTS, None]}), table)
    hub.datasets["me/books"] = {"data/train-00000-of-00001.parquet": table.getvalue()}
    done = train(hub, tiny_llama, tmp_path / "a")
    assert done.returncode == 0, done.stderr
    assert "hf:me/books: 2 rows hold null and no text" in " ".join(done.stderr.split())


def test_the_field_of_a_dataset(hub, tiny_llama, tmp_path):
    """What the hint says works: --field, as for files."""
    table = io.BytesIO()
    parquet.write_table(pyarrow.table({"body": TEXTS}), table)
    hub.datasets["me/books"] = {"data/train-00000-of-00001.parquet": table.getvalue()}
    done = train(hub, tiny_llama, tmp_path / "a")
    assert "it has: body" in json.loads(done.stdout)["error"]
    assert "--field NAME" in json.loads(done.stdout)["hint"]
    done = train(hub, tiny_llama, tmp_path / "a", "--field", "body")
    assert done.returncode == 0, done.stderr
    done = run_ctxext(
        "eval-ppl", tiny_llama, "--data", "hf:me/books", "--field", "body", "--lengths", 64,
        "--tokens", 256, env=hub.env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
