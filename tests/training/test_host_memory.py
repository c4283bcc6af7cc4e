"""Offloaded layer inputs need host memory: counted as torch pins it, and refused where it lacks."""

from dataclasses import replace

import pytest

from ctxext.api.finetune import finetune
from ctxext.errors import BadInput
from ctxext.machine import memory
from ctxext.machine.host_memory import check_host_memory, parked_bytes
from ctxext.runs.output import MARK
from ctxext.runs.recipe.config import FinetuneConfig, ParallelConfig, TrainConfig
from ctxext.runs.recipe.memory_config import MemoryConfig
from ctxext.training.estimate.memory import Shape
from ctxext.training.estimate.plan import Base, Machine, fits, longest_sequence, planned_memory

GIB = 2**30
LLAMA_8B = Base(Shape(4096, 14336, 32, 32, 8, 128, 128_256), 8_030_261_248, False, 2)
QWEN_7B = Base(Shape(3584, 18944, 28, 28, 4, 128, 152_064), 7_615_616_512, False, 2)
H200 = Machine("h200", 140 * GIB, GIB)


def config(length, context=1):
    return FinetuneConfig(
        train=TrainConfig(seq_length=length),
        memory=MemoryConfig(offload="activations", mlp_tile=2048),
        parallel=ParallelConfig(context=context),
    )


def test_pinned_blocks_are_powers_of_two():
    """131072 tokens of 3584 numbers of 2 bytes are 896 MiB, which torch pins as 1 GiB."""
    one = 131_072 * 3584 * 2
    assert parked_bytes(28, one, pinned=False) == 28 * 896 * 2**20
    assert parked_bytes(28, one, pinned=True) == 28 * GIB
    assert parked_bytes(32, GIB, pinned=True) == 32 * GIB
    assert planned_memory(QWEN_7B, config(131_072), H200).host == 28 * GIB


def test_what_does_not_fit_into_host_memory_does_not_fit():
    """32 layers of 512k tokens of 8 KiB are 128 GiB for each card."""
    planned = planned_memory(LLAMA_8B, config(524_288), H200)
    assert planned.host == 128 * GIB
    for host, enough in ((None, True), (256 * GIB, True), (140 * GIB, False)):
        assert fits(planned, replace(H200, host=host)) is enough, host
    without = replace(config(131_072), memory=MemoryConfig(mlp_tile=2048))
    assert fits(planned_memory(LLAMA_8B, without, H200), replace(H200, host=GIB))


def test_the_longest_row_is_bounded_by_host_memory():
    """Nine tenths of 80 GiB hold 32 blocks of 2 GiB, which 256k tokens fill."""
    assert longest_sequence(LLAMA_8B, config(8192), replace(H200, host=80 * GIB)) == 262_144
    assert longest_sequence(LLAMA_8B, config(8192), H200) > 500_000


def test_all_processes_of_the_machine_count():
    check_host_memory(32 * GIB, 8, 256 * GIB)
    check_host_memory(32 * GIB, 8, None)
    with pytest.raises(BadInput, match=r"8 processes would hold 256\.0 GiB .* 255\.0 GiB are free"):
        check_host_memory(32 * GIB, 8, 255 * GIB)


@pytest.mark.parametrize("recompute", ["all", "auto"])
def test_a_run_says_so_before_its_first_step(tiny_llama, book, tmp_path, monkeypatch, recompute):
    """`auto` is decided when the model is there; else not even an old run is removed."""
    old = tmp_path / "run"
    old.mkdir()
    (old / MARK).write_text("{}")
    parked = 2 * 64 * 64 * 4  # layers, tokens, hidden, float32
    recipe = {
        "data": {"source": str(book)},
        "train": {"seq_length": 64, "steps": 1, "gradient_accumulation": 1},
        "memory": {"offload": "activations", "recompute": recompute, "limit_gib": 1e-9},
    }

    def run():
        return finetune(
            str(tiny_llama), output_dir=old, recipe=recipe, overwrite=True, device="cpu"
        )

    monkeypatch.setattr(memory, "_system_available", lambda: parked - 1)
    monkeypatch.setattr(memory, "_cgroup_left", lambda: None)
    monkeypatch.setattr("ctxext.training.memory.switches.step_memory", lambda model, config: 0)
    with pytest.raises(BadInput, match="--offload activations: this process would hold"):
        run()
    assert not (old / "log.jsonl").exists()
    assert ((old / MARK).read_text() == "{}") is (recompute == "all")
    monkeypatch.setattr(memory, "_system_available", lambda: parked)
    assert run().steps == 1


def test_files_that_a_container_has_read_are_not_in_the_way(tmp_path, monkeypatch):
    two = (tmp_path, "memory.max", "memory.current", ("inactive_file", "active_file"))
    monkeypatch.setattr(memory, "_CGROUPS", (two,))
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 300\nfile 600\ninactive_file 500\nactive_file 50\n")
    assert memory._cgroup_left() == 650
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroup_left() is None
