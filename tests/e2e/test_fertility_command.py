"""`ctxext fertility` through the real command line: numbers, files, and what is refused."""

import json

import pytest

from support.bad_inputs import names, refused
from support.checkpoints import SHARED
from support.command import run_ctxext

TEXTS = {
    "en.txt": "All human beings are born free and equal.",
    "de.txt": "Alle Menschen sind frei und gleich geboren.",
    "zh.txt": "人人生而自由",
}


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_byte_tokenizer_by_hand(tmp_path, tiny_llama, texts):
    """A byte is a token, the window 128: 41 bytes of English, 6 x 3 of Chinese."""
    out = tmp_path / "out"
    done = run_ctxext("fertility", tiny_llama, "--data", texts, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "ctxext.fertility/1"
    assert (document["reference"], document["window"]) == ("en", 128)
    rows = {row["language"]: row for row in document["results"]}
    assert rows["en"]["tokens"] == rows["en"]["bytes"] == rows["en"]["characters"] == 41
    assert rows["en"]["words"] == 8
    assert rows["en"]["window_characters"] == 128
    assert rows["zh"]["tokens_per_character"] == pytest.approx(3.0)
    assert rows["zh"]["against_reference"] == pytest.approx(18 / 41)
    assert rows["zh"]["words"] is None
    assert rows["zh"]["window_characters"] == 42
    written = json.loads((out / "fertility.json").read_text())
    assert written["results"] == document["results"]
    assert "output_dir" not in written
    record = json.loads((out / "ctxext.json").read_text())
    assert record["kind"] == "fertility"
    assert set(record["texts"]) == set(TEXTS)
    assert {"fertility.png", "fertility.svg"} <= set(names(out))


def test_unknown_tokens_are_counted_and_said(tmp_path, tiny_llama, texts):
    """Words it does not know are one token each: cheap, and lost; no weights are needed."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    words = ["<unk>", "All", "human", "beings", "are", "born", "free", "and", "equal", "."]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(model / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (model / "tokenizer_config.json").write_text(json.dumps(kind))
    done = run_ctxext("fertility", model, "--data", texts, "--reference", "DE", "--json")
    assert json.loads(done.stdout)["reference"] == "de"
    rows = {row["language"]: row for row in json.loads(done.stdout)["results"]}
    assert rows["en"]["unknown"] == 0
    assert rows["zh"]["unknown"] == rows["zh"]["tokens"] == 1
    assert rows["de"]["unknown"] == 7
    assert "zh 1 (100 %)" in done.stderr
    assert "lose" in done.stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("fr.txt", "Déclaration".encode("latin-1"), ("fr.txt", "UTF-8")),
        ("fr.txt", b"", ("fr.txt", "no text")),
        ("fr.txt", b"a\0b", ("fr.txt", "binary")),
        ("en.jsonl", b'{"text": "a"}\n', ("two files", "en.jsonl", "en.txt")),
    ],
)
def test_files_that_are_refused(tmp_path, tiny_llama, texts, name, content, words):
    (texts / name).write_bytes(content)
    done = run_ctxext("fertility", tiny_llama, "--data", texts, "-o", tmp_path / "out")
    refused(done, 2, *words)
    assert not (tmp_path / "out").exists()


def test_references_and_folders_that_are_not_there(tmp_path, tiny_llama, texts):
    refused(
        run_ctxext("fertility", tiny_llama, "--data", texts, "--reference", "nl"), 2, "nl", "de, en"
    )
    refused(run_ctxext("fertility", tiny_llama, "--data", tmp_path / "no"), 2, "does not exist")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(run_ctxext("fertility", tiny_llama, "--data", empty), 2, "without .txt")


def test_eighteen_languages(stories):
    """A foreign sentencepiece tokenizer: where it has no letters of a script it falls to bytes."""
    texts = SHARED / "corpus" / "udhr"
    if not texts.exists():
        pytest.skip(f"{texts} is not there")
    done = run_ctxext("fertility", stories, "--data", texts, "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["language"]: row for row in json.loads(done.stdout)["results"]}
    assert len(rows) == 18
    assert {n for n, row in rows.items() if row["words"] is None} == {"ja", "my", "th", "zh"}
    assert max(rows, key=lambda n: rows[n]["window_characters"]) == "en"
    assert rows["th"]["tokens_per_byte"] == pytest.approx(1, abs=0.01)
