"""The laboratory's decoder does with each encoding what transformers' models do."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ctxext.lab.decoder import ENCODINGS, LabConfig, LabForCausalLM

WINDOW = 64
BLOCKS = ("llama", "gpt2")
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def make(encoding, block="llama", *, attention="sdpa", seed=0, **keys):
    torch.manual_seed(seed)
    config = LabConfig(
        position_encoding=encoding, block=block, vocab_size=64, hidden_size=32,
        intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=WINDOW, initializer_range=0.2, attn_implementation=attention,
        **keys,
    )  # fmt: skip
    model = LabForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # biases, so that a lost one is seen
                parameter.normal_(std=0.1)
    return model


def some_ids(rows=2, length=24, seed=1):
    return torch.randint(64, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, ids, **given):
    return model(input_ids=ids, use_cache=False, **given).logits


@every_encoding
@pytest.mark.parametrize("block", BLOCKS)
def test_saved_and_loaded_it_says_the_same_to_the_bit(tmp_path, encoding, block):
    model = make(encoding, block, alibi_slope_factor=2.0)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa").eval()
    assert type(loaded) is LabForCausalLM
    assert torch.equal(logits(model, some_ids()), logits(loaded, some_ids()))


@every_encoding
def test_generating_with_a_cache_is_generating_without(encoding):
    model = make(encoding)
    given = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    with_cache = model.generate(some_ids(), use_cache=True, **given)
    assert torch.equal(with_cache, model.generate(some_ids(), use_cache=False, **given))
    assert with_cache.shape == (2, 36)


@every_encoding
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_on_the_left_changes_nothing(encoding, attention):
    model = make(encoding, attention=attention)
    ids, pad = some_ids(), 5
    padded = torch.nn.functional.pad(ids, (pad, 0))
    mask = torch.ones_like(padded)
    mask[:, :pad] = 0
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    ours = logits(model, padded, attention_mask=mask, position_ids=positions)[:, pad:]
    torch.testing.assert_close(ours, logits(model, ids), atol=1e-5, rtol=1e-5)


@every_encoding
def test_a_padded_batch_continues_as_its_rows_alone(encoding):
    model = make(encoding)
    ids = some_ids(rows=1)
    given = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    alone = model.generate(ids, attention_mask=torch.ones_like(ids), **given)[:, 24:]
    batch = torch.cat([torch.nn.functional.pad(ids, (7, 0)), some_ids(1, 31, seed=3)])
    mask = torch.ones_like(batch)
    mask[0, :7] = 0
    assert torch.equal(model.generate(batch, attention_mask=mask, **given)[:1, 31:], alone)


@every_encoding
def test_read_in_chunks_through_the_cache_it_is_one_pass(encoding):
    model, ids = make(encoding), some_ids(length=50)
    cache, parts = None, []
    with torch.no_grad():
        for chunk in ids.split(16, dim=1):
            out = model(input_ids=chunk, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, 1), logits(model, ids), atol=1e-5, rtol=1e-5)


@every_encoding
@pytest.mark.parametrize("chunk", [0, 16])
def test_evaluation_reads_it_as_its_own_forward_does(encoding, chunk):
    """`eval-ppl` reads without masks and in chunks where it can; ALiBi needs its mask."""
    from ctxext.evaluation.reading.scoring import Scorer

    model, ids = make(encoding), some_ids(length=60)
    plain = torch.nn.functional.cross_entropy(
        logits(model, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view(2, -1)
    for scored in (20, 59):
        nll = Scorer(model, prefill_chunk=chunk).nll(ids, scored)
        torch.testing.assert_close(nll, plain[:, -scored:], atol=1e-4, rtol=1e-4)


@every_encoding
@pytest.mark.parametrize("block", BLOCKS)
def test_sdpa_is_eager(encoding, block):
    one, other = (make(encoding, block, attention=name) for name in ("sdpa", "eager"))
    torch.testing.assert_close(
        logits(one, some_ids()), logits(other, some_ids()), atol=1e-5, rtol=1e-5
    )


@every_encoding
def test_labels_kept_logits_and_recomputation(encoding):
    model, ids = make(encoding).train(), some_ids()
    whole = model(input_ids=ids, labels=ids, use_cache=False)
    wanted = torch.nn.functional.cross_entropy(
        whole.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
    )
    torch.testing.assert_close(whole.loss, wanted)
    for kept in (3, torch.tensor([-3, -2, -1])):
        some = model(input_ids=ids, logits_to_keep=kept, use_cache=False).logits
        torch.testing.assert_close(some, whole.logits[:, -3:])
    whole.loss.backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert all(gradient.any() for gradient in before.values())
    model.zero_grad()
    enable = getattr(model, "activation_checkpointing_enable", None)  # its newer name
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, before[name])


@every_encoding
def test_it_trains_after_it_was_read_in_inference_mode(encoding):
    model, ids = make(encoding), some_ids()
    with torch.inference_mode():
        model(input_ids=ids)
    model.train()(input_ids=ids, labels=ids, use_cache=False).loss.backward()


@every_encoding
def test_a_cache_of_fixed_size_holds_it_too(encoding):
    model = make(encoding)
    given = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones(2, 24)}
    static = model.generate(
        some_ids(), cache_implementation="static", disable_compile=True, **given
    )
    assert torch.equal(static, model.generate(some_ids(), **given))


@every_encoding
def test_packed_documents_do_not_read_each_other(encoding):
    model, ids = make(encoding), some_ids(rows=1)
    positions = torch.cat([torch.arange(10), torch.arange(14)])[None]
    packed = logits(model, ids, position_ids=positions)
    apart = torch.cat([logits(model, ids[:, :10]), logits(model, ids[:, 10:])], 1)
    torch.testing.assert_close(packed, apart, atol=1e-5, rtol=1e-5)


def test_rope_turns_as_llama_does_also_scaled():
    for block in (
        {"rope_type": "default", "rope_theta": 500.0},
        {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0,
         "original_max_position_embeddings": 16},
    ):  # fmt: skip
        ours = make("rope", rope_parameters=dict(block)).model.rotary_emb
        llama = LlamaForCausalLM(
            LlamaConfig(vocab_size=64, hidden_size=32, num_attention_heads=4, num_hidden_layers=1,
                        intermediate_size=8, max_position_embeddings=WINDOW,
                        rope_parameters=dict(block))
        ).model.rotary_emb  # fmt: skip
        assert torch.equal(ours.inv_freq, llama.inv_freq)
        assert ours.attention_scaling == llama.attention_scaling
    assert ours.attention_scaling > 1


@every_encoding
def test_order_counts_behind_a_causal_mask(encoding):
    """Even without an encoding: in a second layer what is read has itself read less or more."""
    model, ids = make(encoding), some_ids(rows=1)
    turned = torch.cat([ids[:, :-1].flip(1), ids[:, -1:]], 1)
    assert (logits(model, ids)[:, -1] - logits(model, turned)[:, -1]).abs().max() > 1e-3


def test_without_position_and_mask_order_is_invisible():
    model, ids = make("none").double(), some_ids(rows=1)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        straight, mixed = (
            model.model(each, is_causal=False, use_cache=False).last_hidden_state
            for each in (ids, ids[:, order])
        )
    torch.testing.assert_close(straight[:, order], mixed, atol=1e-12, rtol=1e-12)
    everything = torch.zeros(1, 1, 24, 24, dtype=torch.double)
    by_mask = model.model(ids, attention_mask=everything, use_cache=False).last_hidden_state
    torch.testing.assert_close(by_mask, straight, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "none"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_with_a_position_order_is_seen_without_a_mask(encoding, attention):
    model, ids = make(encoding, attention=attention), some_ids(rows=1)
    turned = model.model(ids.flip(1), is_causal=False, use_cache=False).last_hidden_state.flip(1)
    straight = model.model(ids, is_causal=False, use_cache=False).last_hidden_state
    assert (turned - straight).abs().max() > 1e-3


def test_a_learned_table_ends_with_its_last_row():
    model = make("learned")
    logits(model, some_ids(length=WINDOW))
    with pytest.raises(
        IndexError, match="position 64 has no row: the table was learned for 64 positions"
    ):
        logits(model, some_ids(length=WINDOW + 1))
    with pytest.raises(IndexError, match="position 70"):
        logits(model, some_ids(length=2), position_ids=torch.tensor([[69, 70]]))


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "learned"])
def test_the_others_are_defined_beyond_the_window(encoding):
    model, ids = make(encoding), some_ids(length=3 * WINDOW)
    long = logits(model, ids)
    assert long.isfinite().all()
    torch.testing.assert_close(long[:, :24], logits(model, ids[:, :24]), atol=1e-5, rtol=1e-5)


def test_sinusoids_are_as_large_as_said_and_those_of_the_equation():
    model = make("sinusoidal", sinusoid_scale=0.3)
    rows = model.model.embed_positions(torch.arange(200), 200)
    torch.testing.assert_close(rows.square().mean(1).sqrt(), torch.full((200,), 0.3))
    assert torch.allclose(rows[:, 0], 0.3 * 2**0.5 * torch.arange(200).sin(), atol=1e-5)


def test_alibi_reads_farther_by_its_slope_factor():
    """Slopes of half the size at twice the distance: the same bias."""
    near, far = (make("alibi", alibi_slope_factor=s).model.alibi for s in (1.0, 2.0))
    like = torch.zeros(1, 9, 32)
    a = near.mask(like, 0, 9, causal=False)
    b = far.mask(torch.zeros(1, 17, 32), 0, 17, causal=False)
    assert torch.equal(a, b[..., ::2, ::2])
    assert a[0, 0, 8, 0] == -8 * 0.25


def test_what_alibi_keeps_is_not_given_to_another_length():
    model = make("alibi")
    short, long = some_ids(length=10), some_ids(length=40)
    first = logits(model, short)
    logits(model, long)
    assert torch.equal(first, logits(model, short))
    assert torch.equal(first, logits(copy.deepcopy(model), short))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"position_encoding": "rotary"}, "position_encoding is one of .*, not 'rotary'"),
        ({"block": "bert"}, "block is llama or gpt2"),
        ({"position_encoding": "none", "rope_parameters": {"rope_type": "yarn"}}, "of no use"),
        ({"hidden_size": 36, "num_attention_heads": 12}, "even number for each of 12 heads"),
        ({"alibi_slope_factor": 0.0}, "alibi_slope_factor is a number above 0"),
        ({"alibi_slope_factor": 1e-320}, "alibi_slope_factor is a number above 0"),
        ({"sinusoid_base": -1}, "sinusoid_base is a number above 0"),
        ({"sinusoid_base": float("nan")}, "sinusoid_base is a number above 0"),
        ({"sinusoid_scale": float("inf")}, "sinusoid_scale is a number from 0 up"),
        ({"norm_eps": -1.0}, "norm_eps is a number from 0 up"),
    ],
)
def test_a_config_that_makes_no_decoder_is_refused(keys, words):
    with pytest.raises(Exception, match=words):
        LabConfig(**keys)
