"""A finished evaluation takes more models or lengths into its folder, and only what is missing is
measured; what would make its rows another run's is refused by name."""

import json
import re
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from ctxext.api.perplexity import perplexity
from ctxext.api.retrieval import retrieval
from ctxext.errors import BadInput
from support.command import run_ctxext


@pytest.fixture
def text(tmp_path, book):
    path = tmp_path / "text.txt"
    path.write_text(book.read_text()[:3000])
    return path


@pytest.fixture
def other(tmp_path, tiny_llama):
    """Another checkpoint of the same shape."""
    return noisy(tiny_llama, tmp_path / "other")


def noisy(checkpoint, folder, seed=1):
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def measured(models, text, out=None, **settings):
    """The document, and the tasks that were worked at."""
    reports = set()
    result = perplexity(
        [str(model) for model in models], data=str(text), stride=32, output_dir=out,
        on_progress=lambda task, *_: reports.add(task), **settings,
    )  # fmt: skip
    return without_times(result.to_dict()), reports


def without_times(document):
    for row in document["results"]:
        row.pop("seconds", None)
    document.pop("output_dir", None)
    return document


def on_disk(out, kind="eval-ppl"):
    return without_times(json.loads((out / f"{kind}.json").read_text()))


def test_models_and_lengths_are_added_and_it_ends_as_measured_at_once(
    tmp_path, tiny_llama, other, text
):
    out = tmp_path / "out"
    measured([tiny_llama], text, out, lengths=[64, 128])
    # a model: the first is not named, and stays as it is
    document, worked = measured([other], text, out, lengths=[64])
    assert worked == {"other at 64", "other at 128", "other by position"}
    assert [(r["model"], r["length"]) for r in document["results"]] == [
        ("llama", 64), ("llama", 128), ("other", 64), ("other", 128),
    ]  # fmt: skip
    # a length between: positions are those of the longest, and stay
    document, worked = measured([other, tiny_llama], text, out, lengths=[96])
    assert worked == {"other at 96", "llama at 96"}
    # a longer one
    document, worked = measured([tiny_llama, other], text, out, lengths=[256])
    assert worked == {
        "llama at 256", "llama by position", "other at 256", "other by position",
    }  # fmt: skip
    at_once, _ = measured([tiny_llama, other], text, lengths=[64, 96, 128, 256])
    assert document == at_once
    assert on_disk(out) == at_once
    assert not list(out.glob("measured-*"))
    # the same once more, without lengths too: nothing to do
    for lengths in ([64], None):
        again, worked = measured([tiny_llama, other], text, out, lengths=lengths)
        assert (again, worked) == (at_once, set())


def test_differences_to_rows_taken_over_are_paired(tmp_path, tiny_llama, other, text):
    out = tmp_path / "out"
    flags = ["--data", text, "--lengths", "64,128", "--stride", "32", "-o", out]
    assert run_ctxext("eval-ppl", tiny_llama, *flags).returncode == 0
    done = run_ctxext("eval-ppl", other, *flags)
    assert done.returncode == 0, done.stderr
    assert f"2 numbers of {out} are taken from there" in done.stderr
    assert "difference of the loss" in done.stdout
    assert "(unpaired) |" not in done.stdout


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stride": 16}, "--stride is 16 now, and was 32 for what .* has"),
        ({"protocol": "yarn"}, "--protocol is 'yarn' now, and was 'sliding' for what .* has"),
        ({"stride": 32, "aligned": True}, "--aligned is '64, 128' now, and was not given for"),
        ({"tokens": 2000}, "--tokens is 2000 now, and was not given for"),
        ({"dtype": "bfloat16"}, "--dtype is 'bfloat16' now, and was 'auto on cpu' for"),
        ({"prefill_chunk": 32}, "--prefill-chunk is 32 now, and was not given for"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, tiny_llama, other, text, settings, said):
    out = tmp_path / "out"
    measured([tiny_llama], text, out, lengths=[64, 128])
    before = on_disk(out)
    with pytest.raises(BadInput, match=said) as refused:
        perplexity(
            str(other), data=str(text), lengths=[64],
            **({"stride": 32} | settings), output_dir=out,
        )  # fmt: skip
    assert "--overwrite" in refused.value.hint
    assert on_disk(out) == before


def test_another_text_is_refused(tmp_path, tiny_llama, text):
    out = tmp_path / "out"
    measured([tiny_llama], text, out, lengths=[64])
    text.write_text(text.read_text().replace("e", "i"))
    with pytest.raises(BadInput, match=r"--data is 'text [0-9a-f]{64}' now, and was 'text "):
        measured([tiny_llama], text, out, lengths=[64, 128])


def test_a_model_that_is_not_named_may_not_lack_a_length(tmp_path, tiny_llama, other, text):
    out = tmp_path / "out"
    measured([tiny_llama], text, out, lengths=[64])
    with pytest.raises(BadInput, match="has llama too, which is not measured at 128") as refused:
        measured([other], text, out, lengths=[128])
    assert "name the checkpoint of llama" in refused.value.hint


def test_the_same_name_of_another_checkpoint_is_refused(tmp_path, tiny_llama, text):
    out, folder = tmp_path / "out", tmp_path / "model"
    noisy(tiny_llama, folder)
    measured([folder], text, out, lengths=[64])
    noisy(tiny_llama, folder, seed=2)  # trained on, in its place
    with pytest.raises(BadInput, match="numbers of another checkpoint that is called model") as e:
        measured([folder], text, out, lengths=[64, 128])
    assert "--names" in e.value.hint
    document, worked = measured([folder], text, out, lengths=[64], names=["later"])
    assert worked == {"later at 64", "later by position"}
    assert [row["model"] for row in document["results"]] == ["model", "later"]


def test_one_checkpoint_is_one_model_whatever_it_is_called(tmp_path, tiny_llama, text):
    out = tmp_path / "out"
    measured([tiny_llama], text, out, lengths=[64])
    document, worked = measured([tiny_llama], text, out, lengths=[64, 128], names=["base"])
    assert worked == {"base at 128", "base by position"}
    assert [(r["model"], r["length"]) for r in document["results"]] == [("base", 64), ("base", 128)]
    assert {r["model"] for r in document["by_position"]} == {"base"}


def test_files_touched_since_are_measured_again(tmp_path, tiny_llama, text):
    """The same hashes, but nobody knows whether a byte between them has changed."""
    out, folder = tmp_path / "out", tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    first, _ = measured([folder], text, out, lengths=[64])
    (folder / "model.safetensors").touch()
    again, worked = measured([folder], text, out, lengths=[64])
    assert worked == {"model at 64", "model by position"}
    assert again == first


def test_a_longer_length_that_leaves_documents_out_measures_all_again(tmp_path, tiny_llama, book):
    folder, out = tmp_path / "texts", tmp_path / "out"
    folder.mkdir()
    (folder / "long.txt").write_text(book.read_text()[:1000])
    (folder / "short.txt").write_text(book.read_text()[2000:2100])
    measured([tiny_llama], folder, out, lengths=[64])
    document, worked = measured([tiny_llama], folder, out, lengths=[512])
    assert worked == {"llama at 64", "llama at 512", "llama by position"}
    assert document == measured([tiny_llama], folder, lengths=[64, 512])[0]
    assert document["results"][0]["tokens"] == 999


def test_aligned_takes_models_and_no_lengths(tmp_path, tiny_llama, other, text):
    out = tmp_path / "out"
    measured([tiny_llama], text, out, lengths=[64, 128], aligned=True)
    document, worked = measured([other], text, out, aligned=True)
    assert worked == {"other at 64", "other at 128", "other by position"}
    at_once, _ = measured([tiny_llama, other], text, lengths=[64, 128], aligned=True)
    assert document == at_once
    with pytest.raises(BadInput, match=r"--aligned is '64, 96, 128' now, and was '64, 128' for"):
        measured([tiny_llama, other], text, out, lengths=[96], aligned=True)


def test_key_tokens_are_taken_over_too(tmp_path, shipped, tiny_llama, text):
    from ctxext.api.perplexity import KeyTokens

    out, keys = tmp_path / "out", KeyTokens(str(shipped), gain=0.1)
    settings = {"lengths": [64, 128], "key_tokens": keys}
    measured([tiny_llama], text, out, **settings)
    document, worked = measured([shipped], text, out, **settings)
    assert not [task for task in worked if task.startswith("llama")]
    assert document == measured([tiny_llama, shipped], text, **settings)[0]
    with pytest.raises(BadInput, match="--key-tokens is not given now, and was "):
        measured([tiny_llama, shipped], text, out, lengths=[64, 128])


def test_a_folder_of_an_older_version_is_refused_as_ever(tmp_path, tiny_llama, text):
    out = tmp_path / "out"
    measured([tiny_llama], text, out, lengths=[64])
    record = json.loads((out / "ctxext.json").read_text())
    del record["measured_by"]
    (out / "ctxext.json").write_text(json.dumps(record))
    with pytest.raises(BadInput, match="exists and is not empty"):
        measured([tiny_llama], text, out, lengths=[64])
    record["measured_by"] = {"settings": {}, "models": [{"model": "llama", "sha256": "1"}]}
    (out / "ctxext.json").write_text(json.dumps(record))
    with pytest.raises(BadInput, match=re.escape("ctxext.json is broken: in measured_by, ")):
        measured([tiny_llama], text, out, lengths=[64])


def asked(models, out=None, **settings):
    reports = set()
    result = retrieval(
        [str(model) for model in models], output_dir=out, depths=[0, 1], samples=2,
        on_progress=lambda task, *_: reports.add(task), **settings,
    )  # fmt: skip
    document = result.to_dict()
    document.pop("output_dir", None)
    return document, reports


def test_retrieval_takes_models_tasks_and_lengths(tmp_path, tiny_llama, other):
    out = tmp_path / "out"
    asked([tiny_llama], out, tasks=["copy"], lengths=[96])
    document, worked = asked([other], out, tasks=["copy"])
    assert worked == {"other copy at 96"}
    assert [row["model"] for row in document["effective"]] == ["llama", "other"]
    document, worked = asked([tiny_llama, other], out, tasks="copy", lengths=[128])
    assert worked == {"llama copy at 128", "other copy at 128"}
    document, worked = asked([tiny_llama, other], out, tasks="passkey")
    assert worked == {f"{m} passkey at {n}" for m in ("llama", "other") for n in (96, 128)}
    at_once, _ = asked([tiny_llama, other], tasks=["copy", "passkey"], lengths=[96, 128])
    assert document == at_once
    written = json.loads((out / "eval-retrieval.json").read_text())
    assert written == at_once
    with pytest.raises(BadInput, match="has llama too, which is not measured at 512 in copy"):
        asked([other], out, tasks="copy", lengths=[512])
    with pytest.raises(BadInput, match=r"--samples is 3 now, and was 2 for"):
        retrieval(str(other), output_dir=out, depths=[0, 1], samples=3, tasks="copy")
