"""A model without attention states no window: it is measured and trained, and not extended."""

import json
import math

import pytest

from support.bad_inputs import accepted, copy_of, names, refused
from support.checkpoints import write_byte_tokenizer
from support.command import run_ctxext


@pytest.fixture(scope="module")
def mamba(tmp_path_factory):
    """A small model of state spaces, which reads bytes."""
    import torch
    from transformers import MambaConfig, MambaForCausalLM

    folder = tmp_path_factory.mktemp("states") / "mamba"
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=256, hidden_size=32, state_size=4, num_hidden_layers=2, pad_token_id=0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    MambaForCausalLM(config).save_pretrained(folder)
    write_byte_tokenizer(folder, 128)
    return folder


def test_its_perplexity_is_the_models_own(tmp_path, mamba, book):
    import torch
    from transformers import AutoModelForCausalLM

    text = tmp_path / "text.txt"
    text.write_bytes(book.read_bytes()[:300])
    done = run_ctxext(
        "eval-ppl", mamba, "--data", text, "--lengths", "64,300", "--stride", 64, "--json"
    )
    document = json.loads(done.stdout)
    rows = {row["length"]: row for row in document["results"]}
    assert document["window"] is None
    assert [row["window"] for row in rows.values()] == [None, None]
    ids = torch.tensor([list(text.read_bytes())])
    with torch.no_grad():
        loss = AutoModelForCausalLM.from_pretrained(mamba)(input_ids=ids, labels=ids).loss
    assert rows[300]["nll"] == pytest.approx(float(loss), rel=1e-5)
    assert math.isfinite(rows[64]["nll"])
    refused(run_ctxext("eval-ppl", mamba, "--data", text), 2, "window is unknown", "--lengths")


def test_its_retrieval_is_measured_where_lengths_are_given(mamba):
    asked = ["--tasks", "copy", "--samples", 1]
    done = run_ctxext("eval-retrieval", mamba, *asked, "--lengths", 64, "--json")
    accepted(done, "states no window")
    assert json.loads(done.stdout)["window"] is None
    refused(run_ctxext("eval-retrieval", mamba, *asked), 2, "window is unknown", "--lengths")


def test_it_is_trained_on_rows_of_the_length_that_is_said(tmp_path, mamba, book):
    short = ["--data", book, "--steps", 1, "--gradient-accumulation", 1, "--warmup-steps", 0]
    out = tmp_path / "run"
    refused(run_ctxext("finetune", mamba, *short, "-o", out), 2, "states no window", "--seq-length")
    assert names(tmp_path) == []
    short += ["--seq-length", 64]
    accepted(run_ctxext("finetune", mamba, *short, "-o", out))
    named = ["--lora-targets", "in_proj,out_proj", "-o", tmp_path / "other"]
    refused(run_ctxext("finetune", mamba, *short, *named), 2, "'out_proj'", "peft")
    assert json.loads((out / "merged/ctxext.json").read_text())["window"] is None


@pytest.mark.parametrize("flags", [[], ["--original-length", 2048]])
def test_whether_it_can_be_extended_is_asked_before_its_window(tmp_path, mamba, flags):
    done = run_ctxext("extend", mamba, "--target", 4096, *flags, "-o", tmp_path / "out")
    refused(done, 2, "mamba cannot be extended: it has no attention")
    assert names(tmp_path) == []


def test_only_extend_speaks_of_its_own_flag(tmp_path, tiny_llama, book):
    model = copy_of(tiny_llama, tmp_path / "m")
    config = {"model_type": "ctxext_lab", "position_encoding": "alibi", "vocab_size": 256}
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}
    (model / "config.json").write_text(json.dumps({**config, **sizes}))
    said = "has no max_position_embeddings"
    refused(run_ctxext("extend", model, "--target", 512, "--dry-run"), 2, said, "--original-length")
    done = run_ctxext("fertility", model, "--data", f"en={book}")
    refused(done, 2, said)
    assert "--original-length" not in done.stderr


def test_a_model_of_pictures_is_no_decoder(tmp_path, book):
    from transformers import ViTConfig, ViTModel

    vit = tmp_path / "vit"
    ViTModel(
        ViTConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(vit)
    data = ["--data", book]
    for command in (
        ["inspect", vit],
        ["extend", vit, "--target", 512, "-o", tmp_path / "out"],
        ["eval-ppl", vit, *data, "--lengths", 64],
        ["finetune", vit, *data, "--seq-length", 64, "--steps", 1, "-o", tmp_path / "out"],
    ):
        refused(
            run_ctxext(*command), 2, "vit reads pictures and has no vocab_size, so it is no decoder"
        )
    assert names(tmp_path) == ["vit"]
