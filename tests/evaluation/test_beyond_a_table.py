"""A learned table of positions ends, and what is asked beyond it is said and passed over."""

import json

import pytest

from ctxext.api.extend import extend
from support.command import run_ctxext
from support.families import WINDOW, build_family


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table") / "gpt2"
    build_family(folder, "gpt2", n_positions=WINDOW, num_hidden_layers=1)
    return folder


def test_perplexity_is_measured_where_there_are_positions(gpt2, book):
    done = run_ctxext("eval-ppl", gpt2, "--data", book, "--tokens", "600", "--json",
                      "--lengths", f"{WINDOW},{WINDOW + 1}")  # fmt: skip
    document = json.loads(done.stdout)
    assert [row["length"] for row in document["results"]] == [WINDOW]
    assert {row["length"] for row in document["failed"]} == {WINDOW + 1}
    assert "gpt2 has positions for 128 tokens, and none for 129" in document["failed"][0]["error"]
    assert {row["reads_at_most"] for row in document["failed"]} == {WINDOW}
    assert done.returncode == 1  # no model was measured there


def test_a_base_that_ends_before_its_extension_is_no_failure(tmp_path, gpt2, book):
    """What `finetune` says to do next, again too: nothing is left to try."""
    extend(str(gpt2), target=4 * WINDOW, output_dir=tmp_path / "out")
    line = ["eval-ppl", gpt2, tmp_path / "out", "--data", book, "--tokens", "1200",
            "-o", tmp_path / "ppl", "--json"]  # fmt: skip
    for _ in range(2):
        done = run_ctxext(*line)
        assert done.returncode == 0, done.stderr
        said = f"length 512 is passed over: gpt2 has positions for {WINDOW} tokens, and none for"
        assert said in done.stderr
        document = json.loads(done.stdout)
        assert {row["length"] for row in document["failed"]} == {2 * WINDOW, 4 * WINDOW}
        assert {row["model"] for row in document["by_position"]} == {"interpolate 4x"}
    page = run_ctxext("report", tmp_path / "ppl", "-o", tmp_path / "page.html")
    assert "- gpt2: gpt2 has positions for 128 tokens, and none for 512" in page.stdout
    assert "<h3>Failed</h3>" not in (tmp_path / "page.html").read_text()


def test_nothing_but_lengths_beyond_it_is_an_error_with_a_way_out(gpt2, book):
    done = run_ctxext("eval-ppl", gpt2, "--data", book, "--tokens", "600", "--lengths", "256")
    assert done.returncode == 1
    assert "gpt2 has positions for 128 tokens, and none for 256" in done.stderr
    assert "ctxext extend" in done.stderr
    assert "Traceback" not in done.stderr


def test_retrieval_too(gpt2):
    done = run_ctxext("eval-retrieval", gpt2, "--lengths", "256", "--samples", "1", "--depths", "1")
    assert done.returncode == 1
    assert "and none for 256" in done.stderr


def test_a_window_shorter_than_what_a_model_is_tried_on(tmp_path, book):
    build_family(tmp_path / "gpt2", "gpt2", n_positions=16, num_hidden_layers=2)
    for flags in ((), ("--prefill-chunk", "8")):
        done = run_ctxext("eval-ppl", tmp_path / "gpt2", "--data", book, "--tokens", "200",
                          "--lengths", "8,16", "--json", *flags)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [row["length"] for row in json.loads(done.stdout)["results"]] == [8, 16]
