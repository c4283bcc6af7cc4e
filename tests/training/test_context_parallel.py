"""A row on two processes: loss and gradients are those of one process, for every attention."""

import itertools

import pytest
import torch

from ctxext.errors import BadInput
from ctxext.runs.recipe.config import ParallelConfig
from ctxext.training.memory.recompute import recompute_first
from ctxext.training.parallel.context import Zigzag, by_rank, in_order
from support.processes import run_ranks

T = 96
RANKS = 2
PACKED = torch.cat([torch.arange(37), torch.arange(9), torch.arange(50)])[None].expand(2, T)
ROPE = {"rope_theta": 10_000.0}
LONG = {
    "rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 2.0,
    "original_max_position_embeddings": 72, **ROPE,
}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, **ROPE}
# name: family, changes of its config, position_ids
CASES = {
    "grouped": ("llama", {}, None),
    "every head its own": ("llama", {"num_key_value_heads": 4}, None),
    "tied": ("qwen2", {"tie_word_embeddings": True}, None),
    "sliding": ("mistral", {"sliding_window": 20}, None),
    "packed": ("llama", {}, PACKED),
    "packed and sliding": ("mistral", {"sliding_window": 20}, PACKED),
    "some layers slide": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
        None,
    ),
    # Its attention does not hand on how far it reads.
    "experts, sliding": (
        "qwen2_moe",
        {
            "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 2,
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
        None,
    ),
    # Rank 1 holds the middle of the row, where no position is beyond 72: it has to be told.
    "longrope": ("llama", {"rope_parameters": LONG}, None),
    "dynamic": ("llama", {"rope_parameters": DYNAMIC}, None),
}  # fmt: skip


def build(family, changes):
    """A peft model on random weights, the same in every process."""
    import transformers

    from ctxext.runs.recipe.config import LoraConfig
    from ctxext.training.model.lora import add_adapters

    kinds = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen2_moe": "Qwen2Moe"}
    kind = kinds[family]
    config = getattr(transformers, f"{kind}Config")(
        **{
            "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 48, "rope_parameters": {"rope_type": "default", **ROPE},
            "sliding_window": None, **changes,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    wrapped = add_adapters(model, LoraConfig(rank=4, train_norms=True), "tiny")
    for parameter in wrapped.parameters():  # adapters too: B is zero at first
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    recompute_first(wrapped, None)
    return model, wrapped


def rows():
    return torch.randint(0, 256, (2, T), generator=torch.Generator().manual_seed(1))


def gradients(name, mesh):
    """Loss and gradients of this rank, mean over the targets of all ranks."""
    from ctxext.training.model.batch import Batch
    from ctxext.training.model.lora import LossModel, trained_tensors
    from ctxext.training.model.loss import IGNORED, shifted_labels
    from ctxext.training.parallel.context import context_batch, parallelize_context

    family, changes, positions = CASES[name]
    model, wrapped = build(family, changes)
    ids = rows()
    labels = shifted_labels(ids)
    if positions is not None:
        labels[:, (positions[0, 1:] == 0).nonzero()[:, 0]] = IGNORED
    batch = Batch(ids, labels, positions)
    if mesh is not None:
        parallelize_context(model, mesh)
        batch = context_batch(batch, mesh)
    plain = LossModel(wrapped, loss_chunk=16).train()
    count = (batch.labels != IGNORED).sum()
    count = count if mesh is None else mesh.sum(count)
    loss = plain(batch) / count
    loss.backward()
    return float(loss.detach()), {n: p.grad for n, p in trained_tensors(plain).items()}


def work(launch, names):
    from ctxext.training.parallel.mesh import make_mesh

    mesh = make_mesh(launch, RANKS)
    return {name: gradients(name, mesh) for name in names}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory):
    return run_ranks(work, RANKS, tmp_path_factory.mktemp("ranks"), list(CASES))


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients_are_those_of_one_process(on_two, name):
    loss, grads = gradients(name, None)
    assert sum(rank[name][0] for rank in on_two) == pytest.approx(loss, rel=1e-5)
    assert len(grads) > 10
    for tensor, expected in grads.items():
        summed = sum(rank[name][1][tensor] for rank in on_two)
        assert (summed - expected).abs().max() <= 1e-5 * expected.abs().max(), tensor


def test_the_cases_differ():
    """Each case says something: windows, documents and frequencies change the loss."""
    losses = {name: gradients(name, None)[0] for name in CASES if "head" not in name}
    del losses["tied"]
    for a, b in itertools.combinations(losses, 2):
        assert abs(losses[a] - losses[b]) > 1e-3, (a, b)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_zigzag_shares_rows_and_pairs_evenly(ranks):
    length = 48
    row = torch.arange(2 * length * 3).view(2, length, 3)
    shards = torch.stack([Zigzag(ranks, r).shard(row) for r in range(ranks)])
    assert torch.equal(in_order(shards, dim=1), row)
    assert torch.equal(by_rank(row, 1, ranks), shards)
    pairs = [sum(i + 1 for c in Zigzag(ranks, r).chunks(length) for i in c) for r in range(ranks)]
    assert len(set(pairs)) == 1  # the same number of (query, key) pairs on all


def test_a_row_that_cannot_be_shared_out():
    with pytest.raises(BadInput, match=r"train.seq_length is 100.*multiple of 8") as caught:
        ParallelConfig(4).check(8, 100)
    with pytest.raises(BadInput, match=r"parallel.context is 4 and 6 processes"):
        ParallelConfig(4).check(6, 96)
    ParallelConfig(4).check(8, 96)
    ParallelConfig().check(3, 97)
    assert "--seq-length 96" in caught.value.hint


def refused(launch, folder):
    import transformers

    from ctxext.training.parallel.context import parallelize_context
    from ctxext.training.parallel.mesh import make_mesh

    said = []
    mesh = make_mesh(launch, 2)
    for kind, changes in (
        ("Gemma2", {}),
        ("Llama", {"attention_dropout": 0.1}),
        ("Qwen3Next", {"num_hidden_layers": 4}),
    ):
        config = getattr(transformers, f"{kind}Config")(
            **{"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 1, **changes}
        )
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        try:
            parallelize_context(model, mesh)
        except BadInput as error:
            said.append(str(error))
    return said


def test_what_would_be_wrong_is_refused(tmp_path):
    one, two = run_ranks(refused, 2, tmp_path, None)
    assert one == two
    assert "cap the attention logits of gemma2" in one[0]
    assert "attention_dropout" in one[1]
    assert "linear_attention layers of qwen3_next" in one[2]
