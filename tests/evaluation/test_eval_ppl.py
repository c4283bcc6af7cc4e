"""eval-ppl as a run: aligned lengths, chunks, bits per byte, a kill, failures, two processes."""

import functools
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctxext.api.extend import extend
from ctxext.api.perplexity import perplexity
from ctxext.checkpoints.live.load import load_model
from ctxext.checkpoints.opened import open_checkpoint
from ctxext.errors import BadInput, CtxextError
from ctxext.evaluation.perplexity.scores import Protocols, by_length
from ctxext.evaluation.reading.reading import Reading
from ctxext.evaluation.reading.scoring import Scorer
from support.checkpoints import build_tiny
from support.command import run_ctxext, run_launched, start_ctxext
from support.runs import has_lines, kill, wait_for

# Full, sliding and mixed windows, soft-capped logits, experts.
FAMILIES = {
    "Llama": {},
    "Mistral": {"sliding_window": 48},
    "Qwen2": {"tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None},
    "Gemma2": {"final_logit_softcapping": 3.0, "sliding_window": 48, "query_pre_attn_scalar": 16},
    "Mixtral": {"num_local_experts": 4, "sliding_window": None},
}


def model_of(family):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=256, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, pad_token_id=None,
        **FAMILIES[family],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


@pytest.fixture
def text(tmp_path, book):
    path = tmp_path / "text.txt"
    path.write_text(book.read_text()[:1500])
    return path


def run(*arguments):
    done = run_ctxext("eval-ppl", *arguments)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_equal_one_forward(family, book):
    model = model_of(family)
    ids = torch.tensor(list(book.read_bytes()[:600])).reshape(2, 300)
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    truth = -logits.gather(2, ids[:, 1:, None])[..., 0]
    for chunk in (0, 1, 37, 128, 300, 500):
        scorer = Scorer(model, prefill_chunk=chunk)
        for scored in (1, 60, 299):
            torch.testing.assert_close(
                scorer.nll(ids, scored), truth[:, -scored:], atol=1e-4, rtol=1e-4
            )
            hits = logits.argmax(-1)[:, -scored:] == ids[:, -scored:]
            assert (scorer.hits(ids, scored) == hits).float().mean() > 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_is_asked_for_scored_positions_alone(family, book):
    model = model_of(family)
    ids = torch.tensor(list(book.read_bytes()[:800])).reshape(2, 400)
    attended = []
    last = model.model.layers[-1]
    last.register_forward_hook(lambda module, given, out: attended.append(out.shape[1]))
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
        truth = -logits.gather(2, ids[:, 1:, None])[..., 0]
        scorer = Scorer(model)
        attended.clear()
        for scored, positions in ((10, 11), (150, 151), (300, 400)):
            found = scorer.nll(ids, scored)
            torch.testing.assert_close(found, truth[:, -scored:], atol=1e-5, rtol=1e-5)
            assert attended.pop() == positions
        # what was put in its place is gone
        torch.testing.assert_close(model(input_ids=ids).logits[:, :-1].log_softmax(-1), logits)


def test_a_head_that_nobody_knows_is_read_through_forward(tiny_llama, book):
    opened = open_checkpoint(str(tiny_llama))
    model = load_model(opened.source, opened.position)
    ids = torch.tensor(list(book.read_bytes()[:200]))[None]
    plain = Scorer(model).nll(ids, 150)
    original = model.forward

    @functools.wraps(original)  # what it takes is asked of its signature
    def doubled(*args, **kwargs):
        out = original(*args, **kwargs)
        out.logits = 2 * out.logits
        return out

    model.forward = doubled
    with torch.no_grad():
        logits = doubled(input_ids=ids).logits[0, :-1].log_softmax(-1)
    truth = -logits.gather(1, ids[0, 1:, None])[-150:, 0]
    torch.testing.assert_close(Scorer(model).nll(ids, 150)[0], truth)
    torch.testing.assert_close(Scorer(model, prefill_chunk=50).nll(ids, 150)[0], truth)
    assert not torch.allclose(plain[0], truth)


@pytest.mark.parametrize("method", ["dynamic"])
def test_chunks_are_refused_where_frequencies_follow_the_length(tmp_path, tiny_llama, text, method):
    extend(str(tiny_llama), method=method, target=512, output_dir=tmp_path / "x")
    with pytest.raises(BadInput, match="dynamic scaling"):
        perplexity([str(tmp_path / "x")], data=str(text), lengths=[512], prefill_chunk=64)


@pytest.mark.parametrize("protocol", ["sliding", "yarn"])
def test_a_stride_longer_than_a_window_is_said_and_leaves_no_token_out(tiny_llama, text, protocol):
    result = perplexity(
        [str(tiny_llama)], data=str(text), lengths=[32, 64, 128], stride=100, protocol=protocol
    )
    scored = len(text.read_bytes()) - 1  # bytes are tokens here
    assert [(r.tokens, r.stride) for r in result.results] == [
        (scored, 31), (scored, 63), (scored, 100),
    ]  # fmt: skip
    (said,) = [w for w in result.warnings if "stride" in w]
    assert "--stride 100 is longer than windows of 32, 64 tokens" in said
    assert "31, 63" in said
    equal = perplexity([str(tiny_llama)], data=str(text), lengths=[64, 128], stride=64)
    assert any("lengths do not score the same tokens" in w for w in equal.warnings)
    for quiet in ({"stride": 32}, {"stride": 63, "aligned": True}):
        result = perplexity([str(tiny_llama)], data=str(text), lengths=[64, 128], **quiet)
        assert not result.warnings


def test_aligned_scores_the_same_tokens_at_every_length(tiny_llama, text):
    ids = AutoTokenizer.from_pretrained(tiny_llama)(text.read_text()).input_ids
    result = perplexity(
        [str(tiny_llama)], data=str(text), lengths=[32, 128, 512], stride=100, aligned=True
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    ends = range(512, len(ids) + 1, 100)
    means = {}
    for row in result.results:
        total = 0.0
        for end in ends:
            window = torch.tensor(ids[end - row.length : end])[None]
            with torch.no_grad():
                logits = model(window).logits[0, :-1].log_softmax(-1)
            total -= float(logits.gather(1, window[0, 1:, None])[-31:].sum())
        assert row.tokens == 31 * len(ends)
        assert row.nll == pytest.approx(total / row.tokens, rel=1e-5)
        means[row.length] = row.nll
    assert result.results[2].gain == pytest.approx(means[32] - means[512], abs=1e-9)


def test_what_context_buys_is_told_apart_window_by_window(shipped):
    result = perplexity(
        [str(shipped)], data="builtin:python/heldout", tokens=20_000, lengths=[64, 256],
        stride=256, aligned=True,
    )  # fmt: skip
    row = result.results[1]
    # windows of one text differ by more than what context buys in each of them
    assert row.gain > 3 * row.gain_stderr > 0
    assert row.gain_stderr < 0.7 * row.stderr


def test_bits_per_byte(tmp_path, tiny_llama, text):
    result = perplexity([str(tiny_llama)], data=str(text), lengths=[128], stride=128)
    row = result.results[0]
    # a byte is a token here
    assert row.bits_per_byte == pytest.approx(row.nll / math.log(2))
    wide = tmp_path / "wide.txt"
    wide.write_text("Größe, 上下文 und 😀. " * 40)
    row = perplexity([str(tiny_llama)], data=str(wide), lengths=[128], stride=128).results[0]
    size = len(wide.read_bytes())
    assert row.bits_per_byte == pytest.approx(row.nll / math.log(2) * row.tokens / size, rel=0.02)


def test_bits_per_byte_of_a_real_tokenizer(stories, text):
    row = perplexity([str(stories)], data=str(text), lengths=[64], stride=16).results[0]
    size = len(text.read_bytes())
    assert 1.2 < size / row.tokens < 4
    assert row.bits_per_byte == pytest.approx(row.nll / math.log(2) * row.tokens / size, rel=0.01)


def test_a_killed_run_goes_on_and_ends_alike(tmp_path, tiny_llama, book):
    data = tmp_path / "long.txt"
    data.write_text(book.read_text()[:20_000])
    flags = [tiny_llama, "--data", data, "--lengths", "128,512", "--stride", "32", "-o"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, _, err = run(*flags, whole)
    assert code == 0, err
    process = start_ctxext("eval-ppl", *flags, cut)
    journal = cut / "measured-0.jsonl"
    wait_for(process, has_lines(journal, 6))
    kill(process)
    before = journal.read_text()
    assert json.loads((cut / "ctxext.json").read_text())["finished"] is False
    assert not (cut / "eval-ppl.json").exists()
    journal.write_text(before[:-7])  # the last line cut short, as a full disk or a crash would
    code, _, err = run(*flags, cut)
    assert code == 0, err
    assert not journal.exists()
    one, other = (json.loads((f / "eval-ppl.json").read_text()) for f in (whole, cut))
    for row in (*one["results"], *other["results"]):
        del row["seconds"]
    assert one["results"] == other["results"]
    assert one["by_position"] == other["by_position"]
    # finished: the same command finds everything, and reads nothing
    before = (cut / "eval-ppl.json").read_bytes()
    code, _, err = run(*flags, cut)
    assert code == 0, err
    assert "numbers of" in err
    assert not re.search(r"\d+/\d+ \(", err)
    assert (cut / "eval-ppl.json").read_bytes() == before


def test_what_is_measured_is_not_read_again(tmp_path, tiny_llama, text):
    from ctxext.runs.journal import Journal

    opened = open_checkpoint(str(tiny_llama))
    model = load_model(opened.source, opened.position)
    ids = np.frombuffer(text.read_bytes(), dtype=np.uint8).astype(np.uint32)
    first = Reading(Scorer(model), identity="a", journal=Journal(tmp_path))
    score = by_length(first, [ids], 128, Protocols(stride=64)).score
    first.journal.close()
    with torch.no_grad():
        model.model.norm.weight.zero_()  # whoever reads again gets other numbers
    again, other = (
        Reading(Scorer(model), identity=identity, journal=Journal(tmp_path)) for identity in "ab"
    )
    assert by_length(again, [ids], 128, Protocols(stride=64)).score.nll == score.nll
    for reading in (other, Reading(Scorer(model), identity="a")):
        assert by_length(reading, [ids], 128, Protocols(stride=64)).score.nll != score.nll
    assert by_length(again, [ids], 128, Protocols(stride=32)).score.nll != score.nll
    again.journal.close()
    other.journal.close()


def test_a_length_that_fails_leaves_the_others(tmp_path, tiny_llama, text):
    """A model of learned positions ends: beyond them it can only fail."""
    broken = build_tiny(tmp_path / "broken", "llama")
    model = AutoModelForCausalLM.from_pretrained(broken)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(broken)
    out = tmp_path / "out"
    flags = [tiny_llama, broken, "--data", text, "--lengths", "64,128", "-o", out, "--json"]
    code, printed, err = run(*flags)
    assert code == 1
    assert "length 64 is not measured: broken returned nan" in err
    document = json.loads(printed)
    assert [(f["model"], f["length"]) for f in document["failed"]] == [
        ("broken", 64), ("broken", 128),
    ]  # fmt: skip
    assert {r["model"] for r in document["results"]} == {tiny_llama.name}
    written = json.loads((out / "eval-ppl.json").read_text())
    assert written["results"] == document["results"]
    with pytest.raises(CtxextError, match="returned nan"):
        perplexity([str(broken)], data=str(text), lengths=[64])


LIMITED = """
import resource, sys
import torch, transformers, matplotlib.figure
from ctxext.api.perplexity import perplexity
def measure(lengths):
    return perplexity([sys.argv[1]], data=sys.argv[2], lengths=lengths, stride=lengths[-1])
measure([256])  # whatever is loaded late is loaded now
lines = open("/proc/self/status").read().splitlines()
size = int(next(line for line in lines if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + 16 * 2**20,) * 2)
result = measure([256, 20_000])
print([row.length for row in result.results], [row.length for row in result.failed])
print(result.failed[0].error)
"""


def test_memory_that_runs_out_at_a_length_is_named(tmp_path, tiny_llama, book):
    """A real limit on what the process may have."""
    data = tmp_path / "long.txt"
    data.write_text(book.read_text()[:20_500])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tiny_llama), str(data)],
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lengths, error = done.stdout.splitlines()
    assert lengths == "[256] [20000]"
    assert "llama: out of memory at 1 x 20000 tokens" in error


def test_two_processes_equal_one(tmp_path, tiny_llama, book):
    data = tmp_path / "long.txt"
    data.write_text(book.read_text()[:6000])
    flags = [tiny_llama, "--data", data, "--lengths", "128,512", "--stride", "64", "--json"]
    code, printed, err = run(*flags)
    assert code == 0, err
    out = tmp_path / "out"
    both = run_launched("eval-ppl", *flags, "-o", out)
    assert both.returncode == 0, both.stderr
    one, two = json.loads(printed), json.loads(both.stdout)
    for row in (*one["results"], *two["results"]):
        del row["seconds"]
    assert one["results"] == two["results"]
    assert one["by_position"] == two["by_position"]
    assert not list(out.glob("measured-*"))


def test_aligned_and_another_protocol_are_refused(tiny_llama, text):
    with pytest.raises(BadInput, match="--aligned has windows of its own"):
        perplexity([str(tiny_llama)], data=str(text), lengths=[64], protocol="yarn", aligned=True)
