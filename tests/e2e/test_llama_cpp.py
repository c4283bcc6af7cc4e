"""llama.cpp itself reads a GGUF file with our factors as transformers reads the checkpoint."""

import shutil

import numpy as np
import pytest
import torch

from ctxext.api.extend import extend
from support.gguf_models import write_llama_gguf

pytestmark = pytest.mark.slow
pytest.importorskip("gguf", reason="gguf-py is not installed: pip install -e '.[dev]'")
llama_cpp = pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed (it compiles llama.cpp): nothing here "
    "compares with llama.cpp"
)  # fmt: skip
LENGTH = 1536  # of a window of 512


def tokens():
    rng = np.random.default_rng(0)
    return [int(t) for t in rng.integers(3, 500, LENGTH)]


def by_transformers(folder):
    """Log-likelihood of every token given those before it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([tokens()])
    with torch.no_grad():
        scores = model(ids).logits[0, :-1].log_softmax(-1)
    return scores.gather(1, ids[0, 1:, None])[:, 0].numpy()


def by_llama_cpp(path):
    model = llama_cpp.Llama(
        str(path), n_ctx=2048, n_batch=512, logits_all=True, verbose=False, n_threads=1,
        flash_attn=False, type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip
    model.eval(tokens())
    scores = torch.from_numpy(np.array(model.scores[: LENGTH - 1])).log_softmax(-1)
    model.close()
    return scores.gather(1, torch.tensor(tokens())[1:, None])[:, 0].numpy()


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("llama3", {}),
        ("yarn", {"beta_fast": 8.0, "attention_factor": 1.3}),  # both lost by its converter
        ("ntk", {}),
    ],
)
def test_the_same_likelihoods_past_the_window(tmp_path, stories, method, parameters):
    out, path = tmp_path / "out", tmp_path / "model.gguf"
    plain = write_llama_gguf(stories, tmp_path / "plain.gguf")
    shutil.copy(plain, path)
    extend(
        str(stories), method=method, target=2048, parameters=parameters, output_dir=out, gguf=path
    )
    wanted, got = by_transformers(out), by_llama_cpp(path)
    assert np.abs(got - wanted).max() < 5e-4  # nats; float32 leaves 4e-5
    assert np.abs(got - wanted).mean() < 5e-5
    unscaled = by_llama_cpp(plain)
    assert np.abs(unscaled - wanted)[512:].mean() > 0.05  # the factors are what makes it so
    assert np.abs(unscaled - by_transformers(stories)).max() < 2e-3  # and nothing else is
