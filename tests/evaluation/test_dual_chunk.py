"""Dual chunk attention against the paper's three pieces, and through what reads texts."""

import json
import math

import pytest
import torch
from test_eval_ppl import model_of
from transformers import AutoModelForCausalLM

from ctxext.api.extend import extend
from ctxext.checkpoints.config.detect import detect
from ctxext.checkpoints.live.dual_chunk import DUAL_CHUNK, Folding, folded, use_dual_chunks
from ctxext.checkpoints.live.turned import Turning
from ctxext.evaluation.reading.scoring import Scorer
from ctxext.evaluation.retrieval.answering import Answerer
from support.command import run_ctxext
from support.tiny_models import as_file, tiny_config

CHUNK, LOCAL = 24, 6  # n = 18
INV_FREQ = torch.tensor([1.0, 0.3, 0.05])
BLOCK = {"chunk_size": CHUNK, "local_size": LOCAL}


def turned(states, positions, apart, dtype=torch.float64):
    """(tokens, d) float64, of which the first six dims are turned by positions, as complex numbers.

    `dtype`: of the product of position and frequency; float32 in transformers.
    """
    out = states.clone()
    angle = (positions.to(dtype)[:, None] * INV_FREQ.to(dtype)).double()
    first, second = (range(0, 3), range(3, 6)) if apart else (range(0, 6, 2), range(1, 6, 2))
    z = torch.complex(states[:, list(first)], states[:, list(second)]) * torch.exp(1j * angle)
    out[:, list(first)], out[:, list(second)] = z.real, z.imag
    return out


def by_the_paper(query, key, value, scaling, apart):
    """One head in float64: intra-, successive- and inter-chunk pieces, equation by equation."""
    n, tokens = CHUNK - LOCAL, len(query)
    p = torch.arange(tokens)
    keys = turned(key, p % n, apart)
    intra, succ, inter = (
        turned(query, at, apart) @ keys.T * scaling
        for at in (
            p % n,
            torch.minimum(p % n + n, torch.tensor(CHUNK)),
            torch.full_like(p, min(2 * n - 1, CHUNK)),
        )
    )
    apart_by = p[:, None] // n - p[None] // n
    logits = torch.where(apart_by == 0, intra, torch.where(apart_by == 1, succ, inter))
    logits = logits.masked_fill(p[None] > p[:, None], -math.inf)
    return logits.softmax(-1) @ value


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("at_once", [2**22, 1000])
def test_equals_the_paper(monkeypatch, apart, at_once):
    monkeypatch.setattr("ctxext.checkpoints.live.dual_chunk._LOGITS", at_once)
    torch.manual_seed(0)
    plain_q = torch.randn(2, 4, 101, 8, dtype=torch.float64)
    plain_k, value = torch.randn(2, 2, 2, 101, 8, dtype=torch.float64)
    places = torch.arange(101)
    query, key = (
        torch.stack(
            [torch.stack([turned(h, places, apart, torch.float32) for h in row]) for row in states]
        )
        for states in (plain_q, plain_k)
    )
    folding = Folding(CHUNK, LOCAL, Turning(INV_FREQ, apart))
    for last in (101, 40, 1):  # of the row: the others were read before, into a cache
        out = folded(query[:, :, -last:], key, value, folding, 0.4)
        for row in range(2):
            for head in range(4):
                wanted = by_the_paper(
                    plain_q[row, head], plain_k[row, head // 2], value[row, head // 2], 0.4, apart
                )
                torch.testing.assert_close(out[row, head], wanted[-last:], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("chunk", "local"), [(24, 6), (24, 12), (24, 18), (7, 1)])
def test_no_distance_is_larger_than_a_chunk(chunk, local):
    """One slow pair and equal states: the logit is cos(f distance), and so tells the distance."""
    tokens, f = 120, torch.tensor([0.02])
    places = torch.arange(tokens)
    angle = (places.float() * f).double()
    states = torch.stack([angle.cos(), angle.sin()], dim=-1)[None, None]
    value = torch.eye(tokens, dtype=torch.float64)[None, None]
    weights = folded(states, states, value, Folding(chunk, local, Turning(f, True)), 1.0)[0, 0]
    cosine = 1 + (weights / weights.diagonal()[:, None]).clamp(min=1e-30).log()
    distance = cosine.clamp(-1, 1).acos() / float(f)
    n = chunk - local
    real = places[:, None] - places[None]
    before = real >= 0
    assert float(distance[before].max()) <= chunk + 1e-3
    near = before & ((real <= local) | (places[:, None] // n == places[None] // n))
    near &= places[:, None] // n - places[None] // n <= 1
    torch.testing.assert_close(distance[near], real[near].double(), atol=1e-3, rtol=0)
    far = places[:, None] // n - places[None] // n > 1
    wanted = (min(2 * n - 1, chunk) - places[None] % n).expand(tokens, -1)
    torch.testing.assert_close(distance[far], wanted[far].double().abs(), atol=1e-3, rtol=0)


def folding_model(family="llama", **changes):
    torch.manual_seed(0)
    config = tiny_config(family, **changes)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    file = {**as_file(config), "dual_chunk_attention_config": BLOCK}
    return model, use_dual_chunks(model, file, detect(file, where="config.json"))


def ids_of(tokens, rows=1):
    return torch.randint(3, 64, (rows, tokens), generator=torch.Generator().manual_seed(1))


# Whole and partial heads, grouped keys, pairs apart and side by side, norms of queries, experts.
@pytest.mark.parametrize("family", ["llama", "qwen3", "mixtral", "gpt_neox", "glm4", "cohere"])
def test_short_texts_are_read_as_ever_and_long_ones_are_not(family):
    model, said = folding_model(family)
    assert "measured with dual chunk attention by its formula (chunk_size 24, local_size 6)" in said
    ids = ids_of(100)
    with torch.no_grad():
        short, long = model(ids[:, :CHUNK]).logits, model(ids).logits
        model.config._attn_implementation = "sdpa"
        plain = model(ids).logits
        assert torch.equal(short, model(ids[:, :CHUNK]).logits)
    torch.testing.assert_close(long[:, :CHUNK], plain[:, :CHUNK], atol=1e-4, rtol=1e-4)
    assert (long[:, 2 * CHUNK :] - plain[:, 2 * CHUNK :]).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "glm4"])
def test_a_cache_changes_nothing(family):
    model, _ = folding_model(family)
    ids = ids_of(150, 2)
    with torch.no_grad():
        logits = model(ids).logits[:, :-1].log_softmax(-1)
    truth = -logits.gather(2, ids[:, 1:, None])[..., 0]
    for chunk in (0, 1, 37, 100):
        scorer = Scorer(model, prefill_chunk=chunk)
        for scored in (1, 60, 149):
            torch.testing.assert_close(
                scorer.nll(ids, scored), truth[:, -scored:], atol=1e-4, rtol=1e-4
            )
    answerer = Answerer(model, prefill_chunk=40)
    assert answerer.cached
    row = ids[0].tolist()
    told = answerer.told(row[:140], [row[140:], row[140:142]])
    for part, end in zip(told, (150, 142), strict=True):
        torch.testing.assert_close(-part.logprobs, truth[0, 139 : end - 1], atol=1e-4, rtol=1e-4)
    tokens = row[:90]
    for _ in range(12):  # greedy, the whole text anew for each token
        with torch.no_grad():
            tokens.append(
                int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax())
            )
    assert answerer.generate(row[:90], 12) == tokens[90:]
    assert model.config._attn_implementation == DUAL_CHUNK


def test_padded_rows_generate_as_alone():
    model, _ = folding_model("llama")
    rows = [ids_of(70)[0], ids_of(95)[0]]
    padded = torch.zeros(2, 95, dtype=torch.long)
    mask = torch.zeros_like(padded)
    for row, ids in enumerate(rows):
        padded[row, -len(ids) :], mask[row, -len(ids) :] = ids, 1
    how = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    together = model.generate(padded, attention_mask=mask, **how)[:, 95:]
    alone = [model.generate(ids[None], **how)[0, len(ids) :] for ids in rows]
    assert together.tolist() == [ids.tolist() for ids in alone]


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mistral", {"sliding_window": 40}, "not all of its layers attend to everything"),
        ("gemma3_text", {}, "not all of its layers attend to everything"),
        ("deepseek_v3", {}, "does not turn its queries as one plain rope does"),
        ("smollm3", {}, "some of its layers have no position"),
        ("gpt2", {}, "its positions are learned"),
        ("falcon", {}, "does not turn its queries as one plain rope does"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}},
            "dynamic scaling follows the length of the text",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_measured_without_and_says_so(family, changes, reason):
    model, said = folding_model(family, **changes)
    assert said.startswith("measured without dual chunk attention, although its config has")
    assert reason in said
    assert model.config._attn_implementation != DUAL_CHUNK


@pytest.mark.parametrize(
    "block", [{"chunk_size": 24}, {"chunk_size": 24, "local_size": 24}, [24, 6],
              {"chunk_size": "24", "local_size": 6}, {"chunk_size": 24.5, "local_size": 6}],
)  # fmt: skip
def test_a_broken_block_is_measured_without(block):
    model = model_of("Llama")
    file = as_file(model.config)
    position = detect(file, where="config.json")
    said = use_dual_chunks(model, {**file, "dual_chunk_attention_config": block}, position)
    assert "are not 0 < local_size < chunk_size" in said
    assert model.config._attn_implementation == "sdpa"
    assert use_dual_chunks(model, file, position) is None


@pytest.fixture
def dual_chunk(shipped, tmp_path):
    """The shipped base at four times its window, by this method."""
    out = tmp_path / "dual"
    window = json.loads((shipped / "config.json").read_text())["max_position_embeddings"]
    extend(str(shipped), method="dual-chunk", target=4 * window, output_dir=out)
    return out, window


def test_eval_ppl_reads_far_by_dual_chunks(shipped, dual_chunk):
    out, window = dual_chunk
    done = run_ctxext(
        "eval-ppl", shipped, out, "--names", "plain,dual", "--data", "builtin:python/heldout",
        "--tokens", 6000, "--lengths", f"{window // 2},{4 * window}", "--stride", window, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    row = {(r["model"], r["length"]): r["perplexity"] for r in document["results"]}
    assert row["plain", window // 2] == row["dual", window // 2]  # to the bit: shorter than a chunk
    assert row["dual", 4 * window] < 0.8 * row["plain", 4 * window]
    sentence = "dual: measured with dual chunk attention by its formula"
    assert sentence in done.stderr
    assert any(warning.startswith(sentence) for warning in document["warnings"])


def test_eval_retrieval_says_it_too(dual_chunk):
    out, window = dual_chunk
    done = run_ctxext(
        "eval-retrieval", out, "--lengths", 2 * window, "--samples", 1, "--depths", "0.5",
        "--tasks", "passkey", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    warnings = json.loads(done.stdout)["warnings"]
    assert any("measured with dual chunk attention by its formula" in each for each in warnings)
