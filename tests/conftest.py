"""Fixtures that several rooms share: small real checkpoints on disk, and the real command line."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from warm import Warm

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the Hub; the push tests say so
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run two at a time, and their models are tiny
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # the command starts hundreds of times here
_CACHE = tempfile.TemporaryDirectory(prefix="ctxext-cache-")  # not the user's own
os.environ["CTXEXT_CACHE"] = _CACHE.name

_WARM = Warm()
atexit.register(_WARM.close)

SHARED = Path(__file__).parent.parent.parent / "shared"


def run_ctxext(*arguments, env=None, timeout=240):
    """The installed command in its own process; text output."""
    arguments = [str(argument) for argument in arguments]
    env = {**os.environ, **(env or {})}
    return _WARM.run(arguments, env, timeout) or subprocess.run(
        [sys.executable, "-m", "ctxext", *arguments],
        capture_output=True, text=True, timeout=timeout, env=env,
    )  # fmt: skip


def write_byte_tokenizer(folder, window):
    """A tokenizer whose ids are bytes, beside a checkpoint."""
    from ctxext.lab.byte_llama import byte_tokenizer

    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
    config = {"model_max_length": window, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def build_tiny(
    folder,
    family="llama",
    *,
    window=128,
    tied=False,
    shard="5GB",
    dtype="float32",
    vocabulary=256,
    head_dim=16,
):
    """A randomly initialised decoder of one of the families, saved by transformers."""
    import torch
    import transformers

    kinds = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
    config_class = getattr(transformers, f"{kinds[family]}Config")
    extra = {"sliding_window": None} if family == "mistral" else {}
    config = config_class(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
        **extra,
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    for parameter in model.parameters():  # far from zero, so that logits say something
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder, max_shard_size=shard)
    write_byte_tokenizer(folder, window)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    """A 2-layer Llama, window 128, byte tokenizer. Read only."""
    return build_tiny(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def shipped():
    """The checkpoint inside the package."""
    from ctxext.api.train_base import shipped_base

    return shipped_base()


@pytest.fixture(scope="session")
def stories():
    """A real pretrained Llama (0.26 M parameters) that nobody here trained."""
    folder = SHARED / "checkpoints" / "stories260K"
    if not folder.exists():
        pytest.skip(f"{folder} is not there: the tests on foreign weights do not run")
    return folder


@pytest.fixture(scope="session")
def book(tmp_path_factory):
    """A long text file of ASCII prose-like lines, made here."""
    import random

    rng = random.Random(0)
    words = [
        "".join(rng.choice("etaoinshrdlu") for _ in range(rng.randint(2, 9))) for _ in range(400)
    ]
    lines = [" ".join(rng.choice(words) for _ in range(12)) + "." for _ in range(1500)]
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n".join(lines))
    return path
