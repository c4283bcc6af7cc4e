"""Memory of an evaluation: no mask of tokens x row, no second cache, norms and MLPs in tiles."""

import math

import pytest
import torch
from test_eval_ppl import FAMILIES, model_of
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ctxext.evaluation.reading import lower_right, scoring
from ctxext.evaluation.reading.room import branch, cache_as_argument, cache_with_room
from ctxext.evaluation.reading.scoring import Scorer
from ctxext.evaluation.retrieval import answering
from ctxext.evaluation.retrieval.answering import Answerer


@pytest.fixture
def masks(monkeypatch):
    """The shapes (queries, keys) of all masks that SDPA is given."""
    seen = []
    real = functional.scaled_dot_product_attention

    def spy(query, key, value, attn_mask=None, **how):
        if attn_mask is not None:
            seen.append(tuple(attn_mask.shape[-2:]))
        return real(query, key, value, attn_mask=attn_mask, **how)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", spy)
    monkeypatch.setattr(lower_right, "scaled_dot_product_attention", spy)
    return seen


class Largest(TorchDispatchMode):
    """The most bytes of one tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.bytes = max([self.bytes, *(t.untyped_storage().nbytes() for t in made)])
        return out


def ids_of(count, rows=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (rows, count), generator=generator)


@pytest.mark.parametrize("window", [None, 1, 5, 30, 400])
@pytest.mark.parametrize("queries", [1, 7, 90])
def test_equals_softmax_written_out(monkeypatch, queries, window):
    monkeypatch.setattr(lower_right, "MASK", 800)  # several blocks
    torch.manual_seed(0)
    query = torch.randn(2, 6, queries, 8, dtype=torch.float64)
    key, value = torch.randn(2, 2, 2, 90, 8, dtype=torch.float64)
    out = lower_right.last_queries(query, key, value, window, 0.3)
    for head in range(6):
        logits = 0.3 * query[:, head] @ key[:, head // 3].transpose(1, 2)
        for own in range(queries):
            place = 90 - queries + own
            for other in range(90):
                if other > place or (window is not None and other <= place - window):
                    logits[:, own, other] = -math.inf
        expected = logits.softmax(-1) @ value[:, head // 3]
        torch.testing.assert_close(out[:, head], expected)


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("keys", [2, 1000, 2**17, 2**20, 2**26])
def test_no_mask_is_larger_than_its_bound(keys, window):
    size = lower_right.block_size(keys, window)
    assert 1 <= size <= 1024
    assert size == 1 or size * min(keys, (window or keys) + size) <= lower_right.MASK


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2"])
@pytest.mark.parametrize("chunk", [0, 1500])
def test_masks_do_not_grow_with_what_is_scored_or_read(monkeypatch, masks, family, chunk):
    """Scored are 5000 of 12000 tokens: as one mask 60 million elements."""
    monkeypatch.setattr(lower_right, "MASK", 2**20)
    model = model_of(family)
    scorer = Scorer(model, prefill_chunk=chunk)
    masks.clear()
    scorer.nll(ids_of(12_000), 5000)
    assert masks
    assert max(queries for queries, _ in masks) <= 1024
    assert max(queries * keys for queries, keys in masks) <= 2**20
    assert model.config._attn_implementation == "sdpa"  # as it was


def test_attention_that_is_not_sdpa_keeps_its_masks_few(monkeypatch, book):
    """Soft-capped logits need transformers' own masks: few positions, and smaller chunks."""
    model = model_of("Gemma2")
    assert model.config._attn_implementation == "eager"
    monkeypatch.setattr(scoring, "_DENSE", 20)
    monkeypatch.setattr(scoring, "MASK", 400 * 50)
    lengths = []
    model.model.layers[-1].self_attn.register_forward_hook(
        lambda module, given, out: lengths.append(out[0].shape[1])
    )
    ids = torch.tensor(list(book.read_bytes()[:400]))[None]
    scorer, chunked = Scorer(model), Scorer(model, prefill_chunk=128)
    for scored, expected in ((15, 16), (60, 400)):
        lengths.clear()
        scorer.nll(ids, scored)
        assert lengths.pop() == expected
    lengths.clear()
    torch.testing.assert_close(chunked.nll(ids, 60), scorer.nll(ids, 60), atol=1e-4, rtol=1e-4)
    assert max(lengths[:-1]) == 50


def test_cudnn_is_left_out_meanwhile():
    """Nearly every shape is new, and it makes a plan for each."""
    model = model_of("Llama")
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with lower_right.lower_right(model):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_and_mlps_are_tiled(monkeypatch, family):
    ids = ids_of(600)
    plain = model_of(family)
    with torch.no_grad():
        logits = plain(ids).logits[:, :-1].log_softmax(-1)
    truth = -logits.gather(2, ids[:, 1:, None])[..., 0]
    monkeypatch.setattr(scoring, "TILE", 50)
    for chunk in (0, 200):
        model = model_of(family)
        for _ in range(2):  # a second scorer finds it tiled
            scorer = Scorer(model, prefill_chunk=chunk)
        torch.testing.assert_close(scorer.nll(ids, 599), truth, atol=1e-4, rtol=1e-4)
    names = {n: m for n, m in model.named_modules() if n.endswith(("norm", "layernorm", ".mlp"))}
    untouched = {n.rpartition(".")[2] for n, m in names.items() if "forward" not in vars(m)}
    assert untouched == ({"mlp"} if family == "Mixtral" else set())  # experts stay as they are


def test_nothing_is_as_large_as_length_times_intermediate():
    """Of 10k tokens in bfloat16: no float32 copy of the hidden states either."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=2048, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, pad_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    ids = ids_of(10_240)
    with torch.no_grad(), Largest() as plain:
        model.model(ids, use_cache=False)
    assert plain.bytes >= 10_240 * 2048 * 2
    scorer = Scorer(model)
    for scored in (100, 6_000):
        with Largest() as largest:
            scorer.nll(ids, scored)
        # cos and sin, float32, are the largest that is left: positions x head_dim
        assert largest.bytes <= max(8192 * 2048 * 2, 2**25 * 4 // 4, 10_240 * 64 * 4)
        assert largest.bytes < plain.bytes


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "Mixtral"])
@pytest.mark.parametrize("chunk", [0, 64])
def test_branches_share_the_prompt(monkeypatch, family, chunk, book):
    model = model_of(family)
    answerer = Answerer(model, prefill_chunk=chunk)
    assert answerer.cached
    text = list(book.read_bytes()[:320])
    caches, joined = [], []
    real_branch, real_cat = answering.branch, torch.cat
    monkeypatch.setattr(answering, "branch", lambda c: caches.append(real_branch(c)) or caches[-1])
    cache, _ = answerer._prefill(text[:300], 9)
    monkeypatch.setattr(torch, "cat", lambda *a, **k: joined.append(a[0]) or real_cat(*a, **k))
    held = [layer.keys.untyped_storage().data_ptr() for layer in cache.layers]
    for tail in (text[300:309], text[10:13]):
        own = branch(cache)
        answerer._read(tail, own, 0)
        assert [layer.keys.untyped_storage().data_ptr() for layer in own.layers] == held
        assert own.get_seq_length() == 300 + len(tail)
    assert cache.get_seq_length() == 300
    assert not any(t.shape[-2] >= 40 for parts in joined for t in parts if t.dim() == 4)
    answerer.told(text[:300], [text[300:308], text[10:18]])
    assert len(caches) == 2


@pytest.mark.parametrize("pieces", [[1] * 9, [5, 1, 1, 30, 2], [40], [3, 60, 1, 1, 1]])
@pytest.mark.parametrize("behind", [0, 4, 50])
def test_a_cache_with_room_gives_what_transformers_does(pieces, behind):
    from transformers import DynamicCache, MistralConfig

    config = MistralConfig(num_hidden_layers=1, sliding_window=8)
    full = MistralConfig(num_hidden_layers=1, sliding_window=None)
    for kind in (config, full):
        ours, theirs = cache_with_room(kind, 10, behind), DynamicCache(config=kind)
        for size in pieces:
            states = torch.randn(2, 2, 3, size, 4)
            assert ours.get_mask_sizes(size, 0) == theirs.get_mask_sizes(size, 0)
            side = branch(ours)
            side.update(*torch.randn(2, 2, 3, 2, 4), 0)  # another branch disturbs nothing
            found, expected = ours.update(*states, 0), theirs.update(*states, 0)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other)
            assert ours.get_seq_length() == theirs.get_seq_length()


def test_far_below_the_largest_logit_nothing_changes_in_the_sum():
    torch.manual_seed(0)
    for scale in (1.0, 30.0, 1000.0):
        logits = scale * torch.randn(4, 50, 4000)
        logits[:, :, 7] = -math.inf
        targets = torch.randint(8, 4000, (4, 50))
        top = logits.amax(-1, keepdim=True)
        chosen = logits.gather(-1, targets[..., None])[..., 0]
        expected = (logits - top).exp().sum(-1).log() + top[..., 0] - chosen
        assert torch.equal(scoring._nll(logits.clone(), targets), expected)


def test_a_cache_is_handed_over_by_the_name_that_a_model_has_for_it():
    """transformers 5.24 calls it `cache`, and reads past the older name where it is given both."""

    def new(input_ids, cache=None, use_cache=None, **kwargs):
        return cache

    def old(input_ids, past_key_values=None, **kwargs):
        return past_key_values

    for forward in (new, old):
        assert forward(None, **cache_as_argument(forward, "held")) == "held"
