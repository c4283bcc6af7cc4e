"""Which lengths an evaluation measures that names none, and what it says before it begins."""

import json

import ctxext
from ctxext.evaluation.session import default_lengths
from support.command import run_ctxext


class Window:
    def __init__(self, original, current):
        self.position = self
        self.window = self
        self.original, self.current = original, current


def test_from_a_quarter_of_the_trained_window_to_the_longest_claimed_one():
    assert default_lengths([Window(8192, 8192)]) == [2048, 4096, 8192]
    assert default_lengths([Window(8192, 8192), Window(8192, 32768)]) == [
        2048, 4096, 8192, 16384, 32768,
    ]  # fmt: skip
    assert default_lengths([Window(100, 350)]) == [25, 50, 100, 200]
    assert default_lengths([Window(4, 4)]) == [2, 4]


def test_what_will_be_read_is_said_before(tiny_llama, book, tmp_path):
    said = []
    result = ctxext.perplexity(
        str(tiny_llama), data=str(book), tokens=1500, stride=32, on_note=said.append
    )
    assert [row.length for row in result.results] == [32, 64, 128]
    # 47 windows of 32 (46 score 31, the last 27), 46 of 64, 44 of 128: all tokens but the first.
    assert said == [
        "reading 1 model at 32, 64, 128 tokens: 1 document, 1,500 tokens, of which 1,453 to 1,499 "
        "are scored at each length, in 137 windows a model"
    ]
    assert {row.tokens for row in result.results} == {1453, 1499}


def test_what_will_be_asked_is_said_before_and_not_when_quiet(tiny_llama, tmp_path):
    asked = ("eval-retrieval", tiny_llama, "--tasks", "copy", "--depths", "0,1", "--samples", "2")
    done = run_ctxext(*asked)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split("\n", 1)[1].startswith(
        "asking 1 model copy at 64, 128 tokens: 4 questions at each length, 8 a model"
    )
    assert "asking" not in run_ctxext(*asked, "--quiet").stderr


def test_names_are_one_for_each_model_and_no_two_alike(tiny_llama, book):
    asked = ("eval-ppl", tiny_llama, tiny_llama, "--data", book, "--tokens", "300", "--json")
    done = run_ctxext(*asked, "--lengths", "64", "--names", "old, new")
    assert done.returncode == 0, done.stderr
    assert [row["model"] for row in json.loads(done.stdout)["results"]] == ["old", "new"]
    for names in ("one", "same,same", "a,b,c"):
        done = run_ctxext(*asked, "--names", names)
        assert done.returncode == 2
        assert "--names has" in done.stderr
