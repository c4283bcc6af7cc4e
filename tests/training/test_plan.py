"""Plans: parts that add up, the longest row at its very edge, what switches change."""

from dataclasses import replace

import pytest

from ctxext.machine.memory import USABLE
from ctxext.runs.recipe.config import FinetuneConfig, LoraConfig, ParallelConfig, TrainConfig
from ctxext.runs.recipe.memory_config import MemoryConfig
from ctxext.training.estimate.memory import Shape, step_bytes
from ctxext.training.estimate.plan import (
    Base,
    Machine,
    base_bytes,
    longest_sequence,
    planned_memory,
    planned_pass,
    switches,
    trained_parameters,
)

GIB = 2**30
LLAMA_8B = Base(Shape(4096, 14336, 32, 32, 8, 128, 128_256), 8_030_261_248, False, 2)
H100 = Machine("h100", 80 * GIB, GIB)


def config(length=8192, **sections):
    train = {"seq_length": length, **sections.pop("train", {})}
    return FinetuneConfig(train=TrainConfig(**train), **sections)


def test_by_hand():
    """8.03 G parameters of 2 bytes; r=16 on q, k, v, o trains 13,631,488, as peft says."""
    planned = planned_memory(LLAMA_8B, config(), H100)
    assert planned.weights == 2 * 8_030_261_248
    assert planned.trained == 16 * 13_631_488
    assert planned.checkpoints == 32 * 8192 * 4096 * 2
    step = planned_pass(LLAMA_8B, config())
    fixed = planned.runtime + planned.weights + planned.trained
    assert planned.peak == fixed + step_bytes(LLAMA_8B.shape, step, 32)


def test_four_bits_leave_the_tables_alone():
    """Two tables of 128256 * 4096 in 2 bytes, the rest in 4.127 bits (arXiv:2305.14314)."""
    got = base_bytes(LLAMA_8B, config(train={"quantize": "4bit"}))
    tables = 2 * 128_256 * 4096
    assert got == pytest.approx(tables * 2 + (8_030_261_248 - tables) * 4.127 / 8, rel=1e-6)


def test_shares_by_hand():
    """An eighth of all, and whole: two tables, two layers of 218,112,128, and what they train."""
    planned = planned_memory(LLAMA_8B, config(parallel=ParallelConfig(shard=8)), H100)
    tables = 2 * 128_256 * 4096
    whole = 2 * (tables + 2 * 218_112_128) + 8 * 425_984
    assert planned.weights == 2 * 8_030_261_248 // 8 + whole
    assert planned.trained == 2 * 13_631_488


def test_full_training_counts_masters_gradients_moments_and_the_copy_in_half_precision():
    planned = planned_memory(LLAMA_8B, config(train={"what": "full"}), H100)
    assert planned.trained == 16 * 8_030_261_248
    assert planned.weights == 2 * (8_030_261_248 - 2 * 128_256 * 4096)  # of the layers


@pytest.mark.parametrize(
    ("lora", "count"),
    [
        ({}, 13_631_488),
        ({"train_norms": True}, 13_631_488 + 4096 * 65),
        ({"train_embeddings": True}, 13_631_488 + 2 * 128_256 * 4096),
        ({"targets": ("all-linear",)}, 41_943_040),  # peft's number for r=16 on all seven
    ],
)
def test_what_is_trained(lora, count):
    assert trained_parameters(LLAMA_8B, config(lora=LoraConfig(**lora))) == count


@pytest.mark.parametrize("context", [1, 8])
def test_the_longest_row_fits_and_the_next_one_does_not(context):
    plain = config(8192, parallel=ParallelConfig(context=context))
    machine = replace(H100, devices=context)
    longest = longest_sequence(LLAMA_8B, plain, machine)
    unit = 1024 * context
    assert longest % unit == 0
    for length, fits in ((longest, True), (longest + unit, False)):
        changed = replace(plain, train=replace(plain.train, seq_length=length))
        planned = planned_memory(LLAMA_8B, changed, machine)
        assert (planned.peak <= USABLE * machine.memory) is fits


def test_nothing_fits_where_the_weights_do_not():
    small = Machine("small", 12 * GIB, GIB)
    assert longest_sequence(LLAMA_8B, config(), small) == 0
    assert longest_sequence(LLAMA_8B, config(train={"quantize": "4bit"}), small) > 4096


def test_auto_recomputes_as_little_as_fits():
    """The plan and the run decide with the same function; one layer less would not fit."""
    auto = config(65_536, memory=MemoryConfig(recompute="auto"))
    planned = planned_memory(LLAMA_8B, auto, H100)
    assert 0 < planned.recomputed < 32
    assert planned.peak <= USABLE * H100.memory
    fewer = replace(auto, memory=MemoryConfig(recompute=planned.recomputed - 1))
    assert planned_memory(LLAMA_8B, fewer, H100).peak > USABLE * H100.memory


def test_switches_say_what_they_change():
    rows = {row.name: row for row in switches(LLAMA_8B, config(), replace(H100, devices=8))}
    plain = rows.pop("")
    assert plain.arithmetic == 1
    assert rows["--recompute none"].peak > plain.peak
    assert 0.65 < rows["--recompute none"].arithmetic < 0.85
    for name, row in rows.items():
        if "recompute" not in name:
            assert row.peak < plain.peak, name
            assert row.longest > plain.longest, name
    best = max(rows.values(), key=lambda row: row.longest)
    assert best.name.count("--") == 4  # all together, but 4 bits, which go with no share
    assert "--shard 8" in best.name
    on = config(
        memory=MemoryConfig(offload="activations", mlp_tile=2048), train={"quantize": "4bit"}
    )
    left = [row.name for row in switches(LLAMA_8B, on, H100)]
    assert left == ["", "--recompute auto"]


def test_what_a_cpu_offloads_stays_in_its_memory():
    parked = config(memory=MemoryConfig(offload="activations"))
    on_card = planned_memory(LLAMA_8B, parked, H100)
    on_cpu = planned_memory(LLAMA_8B, parked, replace(H100, is_host=True))
    assert on_cpu.peak == on_card.peak + 32 * 8192 * 4096 * 2
