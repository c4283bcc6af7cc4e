"""A saved decoder of the laboratory goes through the commands, without any code beside it."""

import json

import pytest
import torch

from ctxext.lab.decoder import ENCODINGS, LabConfig, LabForCausalLM
from ctxext.lab.saved import save_decoder
from support.command import run_ctxext

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "max_position_embeddings": 64}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with one checkpoint for each encoding, named by it."""
    folder = tmp_path_factory.mktemp("lab")
    for encoding in ENCODINGS:
        torch.manual_seed(0)
        save_decoder(
            LabForCausalLM(LabConfig(position_encoding=encoding, **SIZES)), folder / encoding
        )
    return folder


def document_of(*arguments):
    done = run_ctxext(*arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_perplexity_of_all_five_side_by_side(saved):
    models = [saved / encoding for encoding in ENCODINGS]
    lengths = "32,64"
    whole, chunked = (
        document_of("eval-ppl", *models, "--data", "builtin:python/heldout", "--tokens", "512",
                    "--lengths", lengths, "--stride", "16", *more)
        for more in ((), ("--prefill-chunk", "24"))
    )  # fmt: skip
    rows = whole["results"]
    assert len(rows) == 2 * len(ENCODINGS)
    for row, other in zip(rows, chunked["results"], strict=True):
        assert row["perplexity"] == pytest.approx(other["perplexity"], rel=1e-4)
        assert 200 < row["perplexity"] < 320  # of 256 bytes, untrained


def test_retrieval_asks_it(saved):
    asked = document_of("eval-retrieval", saved / "alibi", "--lengths", "128", "--samples", "2",
                        "--depths", "1")  # fmt: skip
    assert asked["results"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_inspect_probes_it(saved, encoding):
    seen = document_of("inspect", saved / encoding, "--probe")
    assert seen["model_type"] == "ctxext_lab"
    assert seen["probe"]["agrees"], seen["probe"]
    assert bool(seen["probe"]["moves"]) == (encoding == "rope")


def test_documents_apart_need_a_bias_that_training_does_not_add(saved, tmp_path):
    done = run_ctxext("finetune", saved / "alibi", "--data", "builtin:python", "--steps", "1",
                      "--set", "data.documents=separate", "-o", tmp_path / "run")  # fmt: skip
    assert done.returncode == 2
    assert "does not know the bias of the scores (ALiBi) of this model" in done.stderr


def test_another_vocabulary_than_bytes_is_not_saved_with_a_byte_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="256 tokens, and the model 300"):
        save_decoder(LabForCausalLM(LabConfig(vocab_size=300, **SIZES)), tmp_path)
