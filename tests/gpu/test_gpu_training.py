"""Training on a GPU computes what a CPU computes in float32, by every way that only a GPU takes."""

import signal
import subprocess
import sys
import time

import pytest
import torch

import ctxext
from ctxext.checkpoints.live import load
from ctxext.errors import CtxextError
from ctxext.runs.log import read_log
from support.checkpoints import build_tiny

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device here: nothing of a GPU is tested", allow_module_level=True)

LENGTH, STEPS = 256, 4
LEFT_ALONE = {"self_check": True, "warmup_steps": 0, "gradient_accumulation": 2, "lr": 1e-3}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Checkpoints of window 256 whose heads every kernel of a GPU takes."""
    made = {}

    def base(family="llama", dtype="float32", window=None):
        key = (family, dtype, window)
        if key not in made:
            folder = tmp_path_factory.mktemp("base") / family
            build_tiny(folder, family, window=LENGTH, dtype=dtype, head_dim=64)
            if window:
                _write_window(folder, window)
            made[key] = folder
        return str(made[key])

    return base


def _write_window(folder, window):
    import json

    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"sliding_window": window}))


@pytest.fixture(scope="module")
def documents(tmp_path_factory, book):
    """Documents of a few dozen bytes, so that a row holds several."""
    import json

    file = tmp_path_factory.mktemp("documents") / "lines.jsonl"
    lines = book.read_text().splitlines()
    file.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return file


def recipe(source, **sections):
    settings = {
        "data": {"source": str(source), **sections.pop("data", {})},
        "train": {"seq_length": LENGTH, "steps": STEPS, "save_every": 2, **LEFT_ALONE},
    }
    settings["train"] |= sections.pop("train", {})
    return settings | sections


def losses(base, out, settings, **keywords):
    ctxext.finetune(base, output_dir=out, recipe=settings, **keywords)
    return [row.loss for row in read_log(out / "log.jsonl")]


WAYS = {
    "stream": {},
    "recomputed, tiled, offloaded": {
        "memory": {"recompute": "all", "mlp_tile": 64, "offload": "activations"}
    },
    "norms and embeddings": {"lora": {"train_norms": True, "train_embeddings": True}},
    "dropout of nothing": {"lora": {"dropout": 0.0, "rslora": True}},
    "S2 attention": {"train": {"attention": "s2"}},
    "documents": {"data": {"documents": "separate"}},
    "all weights": {"train": {"what": "full", "lr": 1e-4}},
    "compiled": {"train": {"compile": True}},
}


@pytest.mark.parametrize("way", WAYS)
def test_bfloat16_on_the_gpu_learns_what_float32_on_the_cpu_learns(
    way, bases, documents, book, tmp_path
):
    """The self-check against transformers' own loss runs in each of them, too."""
    separate = WAYS[way].get("data", {}).get("documents") == "separate"
    source = documents if separate else book

    def settings():
        return recipe(source, **{k: dict(v) for k, v in WAYS[way].items()})

    ours = losses(bases(), tmp_path / "gpu", settings(), device="cuda")
    there = losses(bases(), tmp_path / "cpu", settings(), device="cpu", dtype="float32")
    assert len(ours) == STEPS
    assert ours == pytest.approx(there, rel=5e-3)
    assert there[0] - there[-1] > 0.02  # it learns, so that equal losses say something


@pytest.mark.parametrize("documents_are", ["stream", "separate"])
def test_sliding_windows_too(documents_are, bases, documents, tmp_path):
    base = bases("mistral", window=48)
    settings = recipe(documents, data={"documents": documents_are})
    ours = losses(base, tmp_path / "gpu", settings, device="cuda")
    there = losses(base, tmp_path / "cpu", settings, device="cpu", dtype="float32")
    assert ours == pytest.approx(there, rel=5e-3)


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32"])
def test_whatever_is_stored_is_computed_in_bfloat16(stored, bases, book, tmp_path, monkeypatch):
    loaded = []
    original = load.load_model

    def noted(*arguments, **keywords):
        model = original(*arguments, **keywords)
        loaded.append({p.dtype for p in model.parameters()})
        return model

    monkeypatch.setattr("ctxext.training.run.train.load_model", noted)
    notes = []
    settings = recipe(book)
    ctxext.finetune(
        bases(dtype=stored), output_dir=tmp_path / "run", recipe=settings, on_note=notes.append
    )
    assert loaded == [{torch.bfloat16}]


@pytest.mark.filterwarnings("ignore:inner dimension .* is not aligned:UserWarning")
def test_four_bits_learn_nearly_the_same(bases, book, tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = recipe(book, train={"quantize": "4bit"})
    ours = losses(bases(), tmp_path / "gpu", settings, device="cuda")
    there = losses(bases(), tmp_path / "plain", recipe(book), device="cuda")
    assert ours == pytest.approx(there, rel=0.25)
    assert ours != there
    assert ours[0] - ours[-1] > 0.02
    merged = tmp_path / "gpu" / "merged" / "model.safetensors"
    whole = tmp_path / "plain" / "merged" / "model.safetensors"
    assert abs(merged.stat().st_size - whole.stat().st_size) < 10_000  # not of packed weights


def test_a_killed_run_goes_on_to_the_same_weights(bases, book, tmp_path):
    """SIGKILL after step 2 is saved; dropout, so that the generator of the GPU counts."""
    settings = {"lora": {"dropout": 0.1}, "train": {"steps": 12}}
    whole = tmp_path / "whole"
    losses(bases(), whole, recipe(book, **_copy(settings)), device="cuda")
    killed = tmp_path / "killed"
    program = (
        "import sys, json, ctxext\n"
        "ctxext.finetune(sys.argv[1], output_dir=sys.argv[2], recipe=json.loads(sys.argv[3]),"
        " device='cuda')"
    )
    import json

    arguments = [bases(), str(killed), json.dumps(recipe(book, **_copy(settings)))]
    with subprocess.Popen([sys.executable, "-c", program, *arguments]) as process:
        until = time.monotonic() + 120
        while not (killed / "checkpoints" / "step-2").is_dir() and time.monotonic() < until:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert len(read_log(killed / "log.jsonl")) < 12, "it was done before it could be killed"
    ctxext.finetune(
        bases(), output_dir=killed, recipe=recipe(book, **_copy(settings)), device="cuda",
        resume=True,
    )  # fmt: skip
    rows = [[row.loss for row in read_log(run / "log.jsonl")] for run in (whole, killed)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-4)


def _copy(settings):
    return {section: dict(keys) for section, keys in settings.items()}


def test_memory_that_is_not_there_is_said_with_the_ways_out(bases, book, tmp_path):
    settings = recipe(book, train={"batch_size": 512, "gradient_checkpointing": False})
    with _little_memory(60 * 2**20), pytest.raises(CtxextError, match="out of memory") as caught:
        ctxext.finetune(bases(), output_dir=tmp_path / "run", recipe=settings, device="cuda")
    assert "cheapest first" in str(caught.value.hint)


class _little_memory:
    """A GPU that lends this process no more than so many bytes beyond what it holds."""

    def __init__(self, more):
        self.more = more

    def __enter__(self):
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        fraction = (torch.cuda.memory_reserved() + self.more) / total
        torch.cuda.set_per_process_memory_fraction(fraction)

    def __exit__(self, *error):
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_planned_peak_is_the_measured_one(tmp_path, book):
    """A model wide enough that activations decide: the plan for this GPU is within a fifth."""
    import transformers

    folder = tmp_path / "base"
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=2048, intermediate_size=5632, num_hidden_layers=4,
        num_attention_heads=16, num_key_value_heads=4, max_position_embeddings=8192,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    from support.checkpoints import write_byte_tokenizer

    write_byte_tokenizer(folder, 8192)
    settings = recipe(book, train={"seq_length": 8192, "steps": 2, "gradient_accumulation": 1})
    planned = ctxext.plan_finetune(str(folder), recipe=settings, device="cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    made = ctxext.finetune(str(folder), output_dir=tmp_path / "run", recipe=settings, device="cuda")
    expected = planned.memory.peak - planned.memory.runtime
    assert made.peak_memory_bytes == pytest.approx(expected, rel=0.2)
