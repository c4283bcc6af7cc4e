"""Decoders that no rope tells of positions: a GPU computes what a CPU computes in float32."""

import json

import pytest
import torch

import ctxext
from ctxext.lab.decoder import LabConfig, LabForCausalLM
from ctxext.lab.saved import save_decoder
from ctxext.runs.log import read_log
from support.not_rotary import build_not_rotary

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device here: nothing of a GPU is tested", allow_module_level=True)

STOCK = ("gpt2", "opt", "bloom", "mpt", "falcon", "xglm", "jamba")
LAB = ("sinusoidal", "learned", "rope", "alibi", "none")


def without_dropout(folder):
    """Two devices draw two masks."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: 0.0 if "drop" in k else v for k, v in config.items()}))


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A checkpoint of each kind, extended from 128 to 512 tokens by the method taken unasked."""
    root, made = tmp_path_factory.mktemp("extended"), {}

    def of(kind):
        if kind not in made:
            base = root / f"{kind}-base"
            if kind in LAB:
                torch.manual_seed(0)
                config = LabConfig(
                    position_encoding=kind, max_position_embeddings=128, hidden_size=128,
                    intermediate_size=256, num_hidden_layers=2,
                )  # fmt: skip
                save_decoder(LabForCausalLM(config), base)
            else:
                without_dropout(build_not_rotary(base, kind))
            made[kind] = root / kind
            ctxext.extend(str(base), target=512, output_dir=made[kind])
        return str(made[kind])

    return of


@pytest.mark.parametrize("kind", [*STOCK, *LAB])
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-5), ("bfloat16", 5e-3)])
def test_perplexity_is_that_of_a_cpu(kind, dtype, error, extended, book):
    options = {"data": str(book), "lengths": [128, 512], "stride": 64, "tokens": 3_000}
    ours = ctxext.perplexity(extended(kind), device="cuda", dtype=dtype, **options)
    there = ctxext.perplexity(extended(kind), device="cpu", dtype="float32", **options)
    assert [row.nll for row in ours.results] == pytest.approx(
        [row.nll for row in there.results], rel=error
    )


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        *((kind, "lora") for kind in (*STOCK, *LAB)),
        ("gpt2", "position-rows"),
        ("opt", "position-rows"),
        ("learned", "position-rows"),
        ("jamba", "temperature"),
        ("none", "head-temperature"),
        ("alibi", "full"),
    ],
)
def test_training_learns_what_a_cpu_learns(kind, what, extended, book, tmp_path):
    def losses(device, dtype):
        recipe = {
            "data": {"source": str(book)},
            "train": {
                "what": what, "seq_length": 512, "steps": 4, "warmup_steps": 0, "lr": 1e-3,
                "gradient_accumulation": 2, "self_check": True,
            },
        }  # fmt: skip
        out = tmp_path / device
        ctxext.finetune(extended(kind), output_dir=out, recipe=recipe, device=device, dtype=dtype)
        return [row.loss for row in read_log(out / "log.jsonl")]

    ours, there = losses("cuda", "auto"), losses("cpu", "float32")
    assert len(ours) == 4
    assert ours == pytest.approx(there, rel=5e-3)
