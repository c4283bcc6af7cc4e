"""Adapters that cannot be merged exactly, through the real command line."""

import json
import shutil

import pytest

from support.bad_inputs import Q, accepted, adapter_in, content, copy_of, lora, names, refused
from support.command import run_ctxext


def test_a_base_that_is_a_url(tmp_path, tiny_llama):
    """Nothing is fetched: --base is asked for, wins, and the mismatch is said."""
    adapter = adapter_in(tmp_path / "adapter")
    done = run_ctxext("merge", adapter, "-o", tmp_path / "out")
    refused(done, 2, "https://example.invalid/base", "--base")
    assert names(tmp_path) == ["adapter"]
    done = run_ctxext("merge", adapter, "--base", tiny_llama, "-o", tmp_path / "out", "--json")
    accepted(done, "names another base (https://example.invalid/base); --base counts")
    assert json.loads(done.stdout)["merged_tensors"] == 1


def test_an_adapter_is_not_merged_twice(tmp_path, tiny_llama, book):
    """Told by its bytes: every run calls what it merged `merged`, and adapters name folders so."""
    run, other = tmp_path / "run", tmp_path / "other"
    flags = ("--data", book, "--seq-length", 64, "--steps", 1, "--gradient-accumulation", 1)
    accepted(run_ctxext("finetune", tiny_llama, *flags, "-o", run))
    accepted(run_ctxext("finetune", run / "merged", *flags, "--seed", 1, "-o", other))
    for done in (run, other):
        merged = ("--base", done / "merged", "-o", tmp_path / "twice")
        done = run_ctxext("merge", done / "adapter", *merged)
        refused(done, 2, "merged has this adapter merged in already", "--base")
    assert names(tmp_path) == ["other", "run"]
    # What was trained on a merged checkpoint belongs on it.
    accepted(run_ctxext("merge", other / "adapter", "--base", run / "merged", "-o", tmp_path / "m"))


def test_a_tokenizer_that_an_adapter_brings_is_named(tmp_path, tiny_llama):
    """Trainers of chats save one with tokens and a template of their own beside the adapter."""
    adapter, out = adapter_in(tmp_path / "adapter"), tmp_path / "out"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_llama / name, adapter)
    flags = ("merge", adapter, "--base", tiny_llama, "-o", out, "--overwrite")
    assert "the tokenizer beside" not in run_ctxext(*flags).stderr
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = json.loads((adapter / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append(
        {"id": 200, "content": "<|im_start|>", "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False, "special": True}
    )  # fmt: skip
    (adapter / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = run_ctxext(*flags)
    accepted(done, "differs from the base's (tokens, chat template)", f"--tokenizer {adapter}")
    assert not (out / "chat_template.jinja").exists()
    done = run_ctxext(*flags, "--tokenizer", adapter)
    accepted(done)
    assert "the tokenizer beside" not in done.stderr
    assert (out / "chat_template.jinja").exists()


BROKEN_ADAPTERS = {
    "rank": (lambda: lora(rank=3), {}, "q_proj", "says rank 2"),
    "shape": (lambda: lora(columns=32), {}, "q_proj", "[64, 64] of the base"),
    "unknown-module": (
        lambda: lora(Q.replace("q_proj", "w_proj")), {}, "w_proj.weight", "does not have"
    ),
    "half": (lambda: dict(list(lora().items())[:1]), {}, "only one of lora_A and lora_B"),
    "dora-flag": (lora, {"use_dora": True}, "lora_magnitude_vector"),
    "dora-tensor": (
        lambda: lora() | {f"{Q}.lora_magnitude_vector": lora()[f"{Q}.lora_A.weight"]}, {},
        "lora_magnitude_vector",
    ),
    "pissa": (lora, {"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
    "type": (lora, {"peft_type": "IA3"}, "IA3"),
    "bias": (lora, {"bias": "all"}, "biases (all)"),
    "foreign-name": (lambda: {"x": lora()[f"{Q}.lora_A.weight"]}, {}, "'x'"),
    "no-rank": (lora, {"r": "two"}, "no usable r"),
    "bool-rank": (lora, {"r": True}, "no usable r"),
    "pattern-no-regex": (lora, {"rank_pattern": {"(": 2}}, "rank_pattern"),
    "pattern-a-list": (lora, {"alpha_pattern": ["q_proj"]}, "alpha_pattern"),
    "alpha-nan": (lora, {"lora_alpha": float("nan")}, "lora_alpha"),
    "saved-modules-lost": (lora, {"modules_to_save": ["embed_tokens"]}, "embed_tokens"),
    "saved-modules-a-number": (lora, {"modules_to_save": 7}, "modules_to_save"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN_ADAPTERS)
def test_broken_adapters_are_refused(tmp_path, tiny_llama, case):
    tensors, changes, *words = BROKEN_ADAPTERS[case]
    adapter = adapter_in(tmp_path / "adapter", tensors(), **changes)
    done = run_ctxext("merge", adapter, "--base", tiny_llama, "-o", tmp_path / "out")
    refused(done, 2, *words)
    assert names(tmp_path) == ["adapter"]


def test_a_folder_around_an_adapter_or_a_pickle_says_where_to_go_on(tmp_path, tiny_llama):
    (tmp_path / "run").mkdir()
    adapter = adapter_in(tmp_path / "run" / "adapter")
    done = run_ctxext("merge", tmp_path / "run", "--base", tiny_llama, "-o", tmp_path / "out")
    refused(done, 2, "run has no adapter_config.json", f"there is one in {adapter}")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    done = run_ctxext("merge", adapter, "--base", tiny_llama, "-o", tmp_path / "out")
    refused(done, 2, "only a pickle", "save it again")
    assert names(tmp_path) == ["run"]


def test_nan_in_the_adapter(tmp_path, tiny_llama):
    for value in (float("nan"), float("inf")):
        tensors = lora()
        tensors[f"{Q}.lora_B.weight"][3, 1] = value
        adapter = adapter_in(tmp_path / f"adapter-{value}", tensors)
        before = names(tmp_path)
        done = run_ctxext("merge", adapter, "--base", tiny_llama, "-o", tmp_path / "out")
        refused(done, 1, f"{Q}.lora_B.weight", "NaN or infinity")
        assert names(tmp_path) == before


def test_the_tensors_decide_what_is_tied(tmp_path, tiny_llama):
    """The tiny checkpoint holds an lm_head of its own; its config lies about that."""
    base = copy_of(tiny_llama, tmp_path / "base", tie_word_embeddings=True)
    before = content(base)
    adapter = adapter_in(tmp_path / "adapter")
    done = run_ctxext("merge", adapter, "--base", base, "-o", tmp_path / "out")
    accepted(done, "also holds an lm_head", "different, so the flag is set to false")
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    )
    assert content(base) == before
