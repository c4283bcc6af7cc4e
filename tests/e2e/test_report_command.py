"""`ctxext report` through the real command line, on runs that the real commands wrote."""

import json

import pytest

from support.bad_inputs import names, refused
from support.command import run_ctxext
from support.report_samples import every_kind, perplexity_document, retrieval_document, write_run


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, tiny_llama, book):
    """An extended checkpoint, and an eval-ppl run of it and its base."""
    root = tmp_path_factory.mktemp("report")
    done = run_ctxext("extend", tiny_llama, "--target", "256", "-o", root / "yarn")
    assert done.returncode == 0, done.stderr
    done = run_ctxext(
        "eval-ppl", tiny_llama, root / "yarn", "--data", book, "--lengths", "64,128,256",
        "--tokens", "4k", "-o", root / "yarn" / "eval",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return root


def test_what_the_commands_wrote(tmp_path, evaluated):
    """The extended folder brings the evaluation that lies in it."""
    out = tmp_path / "deep" / "report.html"
    done = run_ctxext("report", evaluated / "yarn", "-o", out)
    assert done.returncode == 0, done.stderr
    for words in ("verdict", "difference of the loss", "max_position_embeddings", "not measured"):
        assert words in done.stdout
    text = out.read_text()
    assert 'id="perplexity"' in text
    assert 'id="config"' in text
    assert str(evaluated) not in text  # no absolute path
    refused(run_ctxext("report", evaluated / "yarn", "-o", out), 2, "exists", "--overwrite")
    again = run_ctxext("report", evaluated / "yarn", "-o", out, "--overwrite", "--json")
    document = json.loads(again.stdout)
    assert document["schema"] == "ctxext.report/1"
    assert document["output"] == str(out)
    assert [run["kind"] for run in document["runs"]] == ["extend", "eval-ppl"]
    assert len(document["differences"]["by_length"]) == 3
    assert out.read_text() == text


def test_every_kind_of_run(tmp_path):
    folders = every_kind(tmp_path / "runs")
    done = run_ctxext("report", *folders, "-o", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    for words in ("used but not the middle", "holds, not used", "(noise)", "arc_easy", "LongPPL"):
        assert words in done.stdout
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def broken_runs(root):
    """Name -> what the folder holds, and the words of its refusal."""
    ppl, keys = perplexity_document(), retrieval_document()
    no_length = perplexity_document(results=[{"model": "a"}])
    cases = {
        "newer": (ppl | {"schema": "ctxext.eval-ppl/2"}, ("newer", "ctxext.eval-ppl/2")),
        "no-list": (ppl | {"results": 3}, ("no-list", "results is 3")),
        "no-rows": (ppl | {"results": [3]}, ("no-rows", "no object")),
        "no-length": (no_length, ("no-length", "length")),
        "no-text": (ppl | {"data": None}, ("no-text", "in data, None is no object")),
    }
    for name, (document, words) in cases.items():
        yield write_run(root / name, "eval-ppl", document), words
    keys["results"][0]["depth"] = "half"
    yield write_run(root / "depth", "eval-retrieval", keys), ("depth", "'half'")
    yield write_run(root / "stopped", "eval-ppl"), ("stopped", "eval-ppl.json", "run its command")
    yield write_run(root / "future", "teleport"), ("future", "teleport", "upgrade")
    yield write_run(root / "record", "eval-ppl", ppl, schema="ctxext.run/9"), ("record", "run/9")
    cut = write_run(root / "cut", "eval-ppl", ppl)
    (cut / "eval-ppl.json").write_text('{"schema": "ctxext.ev')
    yield cut, ("cut", "JSON")
    (root / "foreign").mkdir()
    (root / "foreign" / "file.txt").write_text("x")
    yield root / "foreign", ("foreign", "ctxext.json")
    yield root / "foreign" / "file.txt", ("is a file",)
    yield root / "nowhere", ("nowhere", "does not exist")
    yield root, ("holds runs", "cut")


def test_runs_that_are_refused_name_themselves(tmp_path):
    """In one process: starting the command for each would take longer than all of them."""
    from ctxext.api.report import make_report
    from ctxext.errors import BadInput

    for folder, words in broken_runs(tmp_path / "runs"):
        with pytest.raises(BadInput) as caught:
            make_report([folder], output=tmp_path / "report.html")
        sentence = f"{caught.value} {caught.value.hint}"
        for word in words:
            assert word in sentence, folder
    assert names(tmp_path) == ["runs"]


@pytest.mark.parametrize("key", ["effective", "middle"])
@pytest.mark.parametrize(("field", "value"), [("model", "other"), ("task", "other")])
def test_sums_of_answers_that_are_not_there(tmp_path, key, field, value):
    from ctxext.api.report import make_report
    from ctxext.errors import BadInput

    document = retrieval_document()
    row = {
        "model": "lora", "task": "passkey", "length": 512, "middle": 0.5, "ends": 0.9,
        "difference": -0.4, "low": -0.5, "high": -0.3, "lost": True,
    }  # fmt: skip
    rows = document[key] = document.get(key) or [row]
    rows[0][field] = value
    folder = write_run(tmp_path / "run", "eval-retrieval", document)
    with pytest.raises(BadInput, match=f"eval-retrieval.json.*{key}: .*has no results for"):
        make_report([folder], output=tmp_path / "report.html")


def test_outputs_that_are_refused(tmp_path):
    folder = write_run(tmp_path / "eval", "eval-ppl", perplexity_document())
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my own page</p>")
    refused(run_ctxext("report", folder, "-o", mine, "--overwrite"), 2, "mine.html", "not replaced")
    assert mine.read_text() == "<p>my own page</p>"
    refused(run_ctxext("report", folder, "-o", folder), 2, "is a folder")
    refused(run_ctxext("report", folder, "-o", mine / "in" / "x.html"), 2, "cannot be written")
    refused(run_ctxext("report"), 2, "RUN")
