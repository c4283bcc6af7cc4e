"""Evaluation on a GPU measures what it measures on a CPU, and a length without memory is named."""

import math

import pytest
import torch

import ctxext
from support.checkpoints import build_tiny

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device here: nothing of a GPU is tested", allow_module_level=True)

LENGTHS = [256, 1024]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return str(build_tiny(tmp_path_factory.mktemp("base") / "llama", window=1024, head_dim=64))


def perplexities(model, book, **keywords):
    options = {"lengths": LENGTHS, "stride": 64, "tokens": 5_000} | keywords
    result = ctxext.perplexity(model, data=str(book), **options)
    return [row.nll for row in result.results if row.note is None]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": "float32"}, 1e-5),
        ({"dtype": "bfloat16"}, 5e-3),
        ({"dtype": "bfloat16", "prefill_chunk": 128}, 5e-3),
        ({"dtype": "bfloat16", "stride": 256}, 5e-3),
        ({"dtype": "bfloat16", "aligned": True}, 5e-3),
    ],
)
def test_perplexity_is_that_of_a_cpu(options, error, base, book):
    """Sliding windows ask for the last positions only: a kernel of its own on a GPU."""
    ours = perplexities(base, book, device="cuda", **options)
    plain = {k: v for k, v in options.items() if k in ("stride", "aligned")}
    there = perplexities(base, book, device="cpu", dtype="float32", **plain)
    assert ours == pytest.approx(there, rel=error)


@pytest.mark.parametrize("chunk", [0, 128])
def test_answers_are_those_of_a_cpu(chunk, stories, book):
    """A pretrained model, so that answers differ; float32, so that they differ by nothing else."""
    options = {"lengths": [256, 512], "tasks": ("copy", "passkey"), "samples": 4}
    ours = ctxext.retrieval(
        str(stories), **options, device="cuda", dtype="float32", prefill_chunk=chunk
    )
    there = ctxext.retrieval(str(stories), **options, device="cpu", dtype="float32")
    assert [row.accuracy for row in ours.results] == [row.accuracy for row in there.results]
    gains = [[row.gain for row in result.results] for result in (ours, there)]
    assert gains[0] == pytest.approx(gains[1], rel=1e-3, abs=1e-4)


def test_a_length_without_memory_is_named_and_the_rest_is_kept(base, book):
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    share = (torch.cuda.memory_reserved() + 200 * 2**20) / total
    torch.cuda.set_per_process_memory_fraction(share)
    try:
        result = ctxext.perplexity(
            base, data=str(book), lengths=[256, 65536], stride=65536, protocol="disjoint",
            tokens=70_000, device="cuda",
        )  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [row.length for row in result.results] == [256]
    assert math.isfinite(result.results[0].nll)
    assert [failed.length for failed in result.failed] == [65536]
    assert "memory" in result.failed[0].error
