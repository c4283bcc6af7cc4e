"""Weights on two processes: loss, gradients and the steps that follow are those of one process."""

from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.utils import clip_grad_norm_

from ctxext.errors import BadInput
from ctxext.runs.recipe.config import FinetuneConfig, LoraConfig, ParallelConfig, TrainConfig
from support.processes import run_ranks

T, ROWS, RANKS = 64, 4, 2
PACKED = torch.cat([torch.arange(37), torch.arange(9), torch.arange(18)])[None]
EMBEDDINGS = {"train_norms": True, "train_embeddings": True}
# name: family, changes of its config, of LoraConfig (None = every weight), and how it is computed
CASES = {
    "grouped": ("Llama", {}, {"train_norms": True}, ()),
    "every head its own": ("Llama", {"num_key_value_heads": 4}, {}, ()),
    "sliding": ("Mistral", {"sliding_window": 20}, {}, ()),
    "packed": ("Llama", {}, {}, ("packed",)),
    "experts": ("Mixtral", {"num_local_experts": 4, "output_router_logits": True}, {}, ()),
    "dora, every layer": ("Llama", {}, {"dora": True, "targets": ("all-linear",)}, ()),
    "embeddings": ("Llama", {}, EMBEDDINGS, ()),
    "tied": ("Qwen2", {"tie_word_embeddings": True}, EMBEDDINGS, ()),
    "full": ("Llama", {}, None, ()),
    "full, tied": ("Qwen2", {"tie_word_embeddings": True}, None, ()),
    "bfloat16 under float32 adapters": ("Llama", {}, {}, ("bfloat16",)),
    "float32 under autocast": ("Llama", {}, None, ("autocast",)),
    "nothing recomputed": ("Llama", {}, {"train_norms": True}, ("keep",)),
    "tiled and offloaded": ("Llama", {}, {"targets": ("all-linear",)}, ("tile", "offload")),
    "context": ("Llama", {}, {"train_norms": True}, ("context",)),
    "context, full, packed": ("Llama", {}, None, ("context", "packed")),
}  # fmt: skip


def build(name, mesh):
    """A `LossModel` on random weights, the same in every process, and not sharded yet."""
    import transformers

    from ctxext.checkpoints.live.tiling import tile_mlps
    from ctxext.training.memory.offload import Offloader
    from ctxext.training.memory.recompute import recompute_first
    from ctxext.training.model.lora import LossModel, add_adapters
    from ctxext.training.parallel.context import parallelize_context

    family, changes, lora, how = CASES[name]
    config = getattr(transformers, f"{family}Config")(
        **{
            "vocab_size": 256, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 64, "sliding_window": None, **changes,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    if "bfloat16" in how:
        model.to(torch.bfloat16)
    if mesh is not None and mesh.context_group is not None:
        parallelize_context(model, mesh)
    wrapped = model if lora is None else add_adapters(model, LoraConfig(rank=3, **lora), "tiny")
    for parameter in wrapped.parameters():  # adapters too: B is zero at first
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    if "tile" in how:
        tile_mlps(wrapped, 24)
    recompute_first(
        wrapped, 0 if "keep" in how else None, Offloader() if "offload" in how else None
    )
    return LossModel(wrapped, loss_chunk=16).train()


def batch_of(name, first, count):
    from ctxext.training.model.batch import Batch
    from ctxext.training.model.loss import IGNORED, shifted_labels

    ids = torch.randint(0, 256, (ROWS, T), generator=torch.Generator().manual_seed(1))
    ids = ids[first : first + count]
    labels = shifted_labels(ids)
    if "packed" not in CASES[name][3]:
        return Batch(ids, labels)
    labels[:, (PACKED[0, 1:] == 0).nonzero()[:, 0]] = IGNORED
    return Batch(ids, labels, PACKED.expand(count, T))


def backward(name, model, mesh):
    """All rows, a row a pass on each rank, as the loop does them; the loss, mean over targets."""
    from ctxext.training.model.loss import IGNORED
    from ctxext.training.parallel.context import context_batch
    from ctxext.training.parallel.sharding import gradients_apart

    targets = int((batch_of(name, 0, ROWS).labels != IGNORED).sum())
    cast = "autocast" in CASES[name][3]
    total = torch.zeros(())
    passes = ROWS // (1 if mesh is None else mesh.data_ranks)  # one row at a time in each
    for part in range(passes):
        first = part if mesh is None else part * mesh.data_ranks + mesh.data_rank
        batch = batch_of(name, first, 1)
        if mesh is not None and mesh.context_group is not None:
            batch = context_batch(batch, mesh)
        apart = mesh is not None and part < passes - 1
        with (
            gradients_apart(model, None) if apart else nullcontext(),
            torch.autocast("cpu", torch.bfloat16, enabled=cast, cache_enabled=mesh is None),
        ):
            nll = model(batch)
            (nll * ((1 if mesh is None else mesh.launch.ranks) / targets)).backward()
        total += nll.detach()
    return float(total if mesh is None else mesh.sum(total)) / targets


def measured(name, mesh):
    """Loss, whole gradients, their norm, and the share of the weights that this rank holds."""
    from ctxext.training.model.lora import trained_tensors
    from ctxext.training.parallel.sharding import own_part, shard_model, whole

    model = build(name, mesh)
    every = sum(p.numel() * p.element_size() for p in model.parameters())
    if mesh is not None:
        shard_model(model, mesh.launch, RANKS, torch.device("cpu"))
    held = sum(own_part(p).untyped_storage().nbytes() for p in model.parameters())
    loss = backward(name, model, mesh)
    trained = trained_tensors(model)
    grads = {n: whole(p.grad).clone() for n, p in trained.items()}  # before they are clipped
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    norm = float(whole(clip_grad_norm_(list(trained.values()), 1.0)))
    return {"loss": loss, "grads": grads, "norm": norm, "share": held / every, "frozen": frozen}


def steps(name, mesh, *, load, save, count, out=None):
    """Losses of a few steps of AdamW, from a saved state, or saving the first one's."""
    from ctxext.machine.launch import Launch
    from ctxext.runs.rows.training import RunState
    from ctxext.training.parallel.sharding import shard_model
    from ctxext.training.run.optimizer import make_optimizer
    from ctxext.training.run.state import save_state
    from support.states import load_state

    launch = Launch() if mesh is None else mesh.launch
    model = build(name, mesh)
    if mesh is not None:
        shard_model(model, launch, RANKS, torch.device("cpu"))
    config = FinetuneConfig(
        lora=LoraConfig(plus_ratio=4.0) if CASES[name][2] is not None else LoraConfig(),
        train=TrainConfig(lr=1e-2, what="lora" if CASES[name][2] is not None else "full"),
    )
    optimizer = make_optimizer(model, config)
    if load:
        load_state(load, {}, "", model, optimizer)
    losses = []
    for step in range(count):
        losses.append(backward(name, model, mesh))
        optimizer.step()
        optimizer.zero_grad()
        if save and step == 0:
            save_state(save, RunState(1, 0, {}, ""), model, optimizer, launch)
    return losses


def messages(name, mesh):
    """Reduce-scatters of a pass before the last, and of the last; then the bytes made whole."""
    from torch.distributed.tensor.debug import CommDebugMode

    from ctxext.training.parallel.sharding import gathered_bytes, gradients_apart, shard_model

    model = shard_model(build(name, mesh), mesh.launch, RANKS, torch.device("cpu"))
    counts = []
    for apart in (gradients_apart(model, None), nullcontext()):
        with CommDebugMode() as seen, apart:
            model(batch_of(name, mesh.data_rank, 1)).backward()
        kinds = seen.get_comm_counts().items()
        counts.append(sum(n for kind, n in kinds if "reduce_scatter" in str(kind)))
    return (*counts, gathered_bytes(model))


def begun(name, mesh, file):
    """What a stage trains that begins from the tensors of another, whole."""
    from ctxext.training.parallel.sharding import shard_model
    from ctxext.training.run.state import start_from, whole_trained

    model = shard_model(build(name, mesh), mesh.launch, RANKS, torch.device("cpu"))
    start_from(file, model, mesh.launch)
    return whole_trained(model)


STEPPED = ("tied", "full")


def work(launch, folder):
    from ctxext.training.parallel.mesh import make_mesh
    from ctxext.training.run.state import trained_file

    data, context = make_mesh(launch, 1), make_mesh(launch, RANKS)
    results = {}
    for name, (*_, how) in CASES.items():
        results[name] = measured(name, context if "context" in how else data)
    for name in STEPPED:
        saved = steps(name, data, load=None, save=folder / f"two {name}", count=3)
        resumed = steps(name, data, load=folder / f"one {name}", save=None, count=2)
        results[f"steps {name}"] = saved, resumed
        results[f"begun {name}"] = begun(name, data, trained_file(folder / f"one {name}", 1))
    for name in ("grouped", "full"):
        results[f"messages {name}"] = messages(name, data)
    return results


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return folder, {
        name: steps(name, None, load=None, save=folder / f"one {name}", count=3) for name in STEPPED
    }


@pytest.fixture(scope="module")
def on_two(tmp_path_factory, one):
    return run_ranks(work, RANKS, tmp_path_factory.mktemp("ranks"), one[0])


@pytest.mark.parametrize("name", CASES)
def test_loss_gradients_and_their_norm_are_those_of_one_process(on_two, name):
    expected = measured(name, None)
    assert len(expected["grads"]) > 10
    for rank in (r[name] for r in on_two):
        assert rank["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        assert rank["norm"] == pytest.approx(expected["norm"], rel=1e-5)
        assert set(rank["grads"]) == set(expected["grads"])
        for tensor, own in expected["grads"].items():
            apart = (rank["grads"][tensor] - own).abs().max()
            assert apart <= 1e-5 * own.abs().max(), tensor
        assert not rank["frozen"]


@pytest.mark.parametrize("name", CASES)
def test_each_rank_holds_half_of_the_weights(on_two, name):
    assert all(0.48 < rank[name]["share"] < 0.54 for rank in on_two)


@pytest.mark.parametrize("name", STEPPED)
def test_a_checkpoint_goes_on_with_any_number_of_shares(on_two, one, name):
    folder, losses = one
    whole_run = losses[name]
    assert len(set(whole_run)) == 3
    for rank in on_two:
        saved, resumed = rank[f"steps {name}"]
        assert saved == pytest.approx(whole_run, rel=1e-5)
        assert resumed == pytest.approx(whole_run[1:], rel=1e-5)
    alone = steps(name, None, load=folder / f"two {name}", save=None, count=2)
    assert alone == pytest.approx(whole_run[1:], rel=1e-5)


@pytest.mark.parametrize("name", STEPPED)
def test_a_stage_begins_from_what_one_process_trained(on_two, one, name):
    expected = load_file(one[0] / f"one {name}" / "checkpoints" / "step-1" / "trained.safetensors")
    for rank in on_two:
        got = rank[f"begun {name}"]
        assert set(got) == set(expected)
        assert all(torch.equal(got[n], tensor) for n, tensor in expected.items())


def test_gradients_travel_once_a_step_unless_every_weight_has_one(on_two):
    """One message for each of two layers and the rest."""
    model = build("full", None).model
    layer = sum(p.numel() for p in model.model.layers[0].parameters()) * 4
    outside = sum(p.numel() for p in model.parameters()) * 4 - 2 * layer
    for rank in on_two:
        assert rank["messages grouped"][:2] == (0, 3)
        assert rank["messages full"] == (3, 3, outside + 4 * layer)


def replicas(launch):
    from ctxext.training.parallel.mesh import make_mesh

    return measured("grouped", make_mesh(launch, 1))


@pytest.mark.slow
def test_shares_and_replicas(tmp_path):
    """Four processes, two of them a model: gradients are summed over all, once."""
    expected = measured("grouped", None)
    for rank in run_ranks(replicas, 4, tmp_path):
        assert rank["loss"] == pytest.approx(expected["loss"], rel=1e-5)
        for tensor, own in expected["grads"].items():
            apart = (rank["grads"][tensor] - own).abs().max()
            assert apart <= 1e-5 * own.abs().max(), tensor


def test_what_cannot_be_shared_out():
    with pytest.raises(BadInput, match=r"parallel.shard is 4 and 6 processes") as caught:
        ParallelConfig(shard=4).check(6, 96)
    assert "--nproc_per_node 4" in caught.value.hint
    ParallelConfig(context=2, shard=4).check(8, 96)
    with pytest.raises(BadInput, match=r"parallel.shard is 0"):
        ParallelConfig(shard=0)
    with pytest.raises(BadInput, match="--shard cannot cut the 4-bit weights"):
        FinetuneConfig(train=TrainConfig(quantize="4bit"), parallel=ParallelConfig(shard=2))
