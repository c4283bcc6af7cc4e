"""Processes that agree: failures reach all of them, results of rank 0 too."""

from datetime import timedelta

import pytest

from ctxext.errors import BadInput, CtxextError
from ctxext.machine.launch import Launch, environment_rank, launched
from support.processes import run_ranks


def outcome(work):
    try:
        return work()
    except CtxextError as error:
        return type(error).__name__, str(error), error.hint


def fail_on(launch, rank, error):
    if launch.rank == rank:
        raise error
    return "done"


def work(launch):
    return {
        "all well": outcome(lambda: launch.agree(lambda: launch.rank)),
        "one cannot": outcome(
            lambda: launch.agree(lambda: fail_on(launch, 1, BadInput("no file", "look")))
        ),
        "a bug": outcome(lambda: launch.on_main(lambda: fail_on(launch, 0, CtxextError("full")))),
        "from main": outcome(lambda: launch.on_main(lambda: f"by {launch.rank}")),
        "any": [launch.any(launch.rank == 1), launch.any(False)],
        "gather": launch.gather(launch.rank * 10),
    }


def test_two_ranks_agree_fail_and_gather_together(tmp_path):
    zero, one = run_ranks(work, 2, tmp_path)
    assert (zero["all well"], one["all well"]) == (0, 1)
    assert zero["one cannot"] == ("BadInput", "rank 1: no file", "look")
    assert one["one cannot"] == ("BadInput", "no file", "look")
    assert zero["a bug"] == one["a bug"] == ("CtxextError", "full", "")
    assert zero["from main"] == one["from main"] == "by 0"
    assert zero["any"] == one["any"] == [True, False]
    assert zero["gather"] == one["gather"] == [0, 10]


def test_one_process_agrees_with_itself():
    launch = Launch()
    assert launch.main
    assert launch.agree(lambda: 3) == launch.on_main(lambda: 3) == 3
    assert launch.any(True)
    assert launch.gather("x") == ["x"]


def test_broken_variables_of_a_launcher_are_named(monkeypatch):
    monkeypatch.setenv("RANK", "5")
    assert environment_rank() == 5
    monkeypatch.setenv("WORLD_SIZE", "many")
    with pytest.raises(BadInput, match="WORLD_SIZE is 'many'"), launched("cpu"):
        pass


def timeouts(launch):
    """Of every process group that a run makes: shares, replicas and context groups included."""
    import torch
    from torch.distributed import distributed_c10d

    from ctxext.training.parallel.mesh import make_mesh
    from ctxext.training.parallel.sharding import _device_mesh

    cpu = torch.device("cpu")
    make_mesh(launch, 2)
    _device_mesh(launch, 2, cpu)
    _device_mesh(launch, 1, cpu)
    groups = distributed_c10d._world.pg_map
    return [group._get_backend(cpu).options._timeout for group in groups]


def test_no_group_gives_up_within_hours(tmp_path):
    """NCCL's own patience is ten minutes, and ranks with long documents differ by more."""
    found, _ = run_ranks(timeouts, 2, tmp_path)
    assert len(found) == 6  # all, what is said beside them, context, shares; replicas x shares
    assert min(found) >= timedelta(hours=6)


def test_a_process_may_train_on_one_device_and_then_on_another():
    """accelerate keeps the first device for good; only what a run began is forgotten after it."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, is_initialized

    AcceleratorState._reset_state(reset_partial_state=True)
    with launched("cpu"):
        Accelerator(cpu=True)
        assert is_initialized()
    assert not is_initialized()
    Accelerator(cpu=True)  # a script's own
    with launched("cpu"):
        Accelerator(cpu=True)
    assert is_initialized()
    AcceleratorState._reset_state(reset_partial_state=True)
