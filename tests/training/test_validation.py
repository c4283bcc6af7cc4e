"""Validation: its numbers against transformers' own logits, and that it changes nothing."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import ctxext
from ctxext.checkpoints.live.head import Head
from ctxext.data.packing import PackedRows
from ctxext.data.store import TokenFile
from ctxext.errors import BadInput
from ctxext.evaluation.texts import mixed_rows, validation_rows
from ctxext.runs.log import read_log
from ctxext.runs.recipe.config import (
    DataConfig,
    FinetuneConfig,
    LoraConfig,
    SourceConfig,
    TrainConfig,
)
from ctxext.runs.recipe.validation_config import ValidationConfig
from ctxext.runs.rows.training import PositionLoss, StepRow, Validation, recent_loss, summarised
from ctxext.training.model.lora import LossModel
from ctxext.training.model.loss import IGNORED, token_losses
from ctxext.training.run.state import best_file
from ctxext.training.run.validation import ValidationRows, bucket_bounds, bucket_places, validate
from support.adapted import adapted
from support.command import run_ctxext
from support.processes import run_ranks

LENGTH = 256
SHAPE = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
    "max_position_embeddings": LENGTH,
}  # fmt: skip


def rows(count=3):
    return np.random.default_rng(0).integers(0, 97, (count, LENGTH), dtype=np.int64)


def build():
    return LossModel(adapted("Llama", SHAPE, LoraConfig(rank=4)), 40)


def measured(model, ids, mesh=None, batch_size=2):
    from accelerate import Accelerator

    from ctxext.machine.launch import Launch
    from ctxext.training.parallel.mesh import make_mesh

    mesh = mesh or make_mesh(Launch(), 1)
    return validate(
        model, ValidationRows(ids), mesh, Accelerator(cpu=True), batch_size=batch_size, chunk=40
    )


def by_hand(model, ids):
    """Loss by bucket and copied share from transformers' own logits, token by token."""
    buckets, copied = [[] for _ in range(4)], []
    for row in ids:
        text = torch.tensor(row)
        text[-32:] = text[16:48].clone()
        with torch.no_grad():
            logits = model.model(input_ids=text[None], use_cache=False).logits[0].double()
        for place in range(1, LENGTH):
            before = logits[place - 1]
            if place >= LENGTH - 32:
                if place >= LENGTH - 32 + 8:
                    copied.append(int(before.argmax()) == int(text[place]))
                continue
            nll = float(F.cross_entropy(before[None], text[place][None]))
            bucket = sum(place >= bound for bound in (32, 64, 128))
            buckets[bucket].append(nll)
    return buckets, sum(copied) / len(copied)


def test_against_transformers_token_by_token():
    model, ids = build().eval(), rows()
    ours = measured(model, ids)
    buckets, copied = by_hand(model, ids)
    flat = [nll for bucket in buckets for nll in bucket]
    assert ours.loss == pytest.approx(np.mean(flat), rel=1e-5)
    assert ours.tokens == len(flat)
    assert [(b.start, b.end) for b in ours.by_position] == [
        (0, 32), (32, 64), (64, 128), (128, 256),
    ]  # fmt: skip
    for ours_, theirs in zip(ours.by_position, buckets, strict=True):
        assert ours_.loss == pytest.approx(np.mean(theirs), rel=1e-5)
    assert ours.copied == pytest.approx(copied)


def test_rows_in_a_pass_change_nothing():
    model = build()
    once = measured(model, rows(), batch_size=1)
    assert measured(model, rows(), batch_size=4).by_position == pytest.approx(once.by_position)
    assert model.training  # as before


def copied_next(ids):
    """What follows the last eight tokens where they stood before; 0 where they did not."""
    out = torch.zeros_like(ids)
    for row, text in enumerate(ids.tolist()):
        for end in range(8, len(text)):
            cue = text[end - 7 : end + 1]
            for at in range(end - 8):
                if text[at : at + 8] == cue:
                    out[row, end] = text[at + 8]
    return out


def test_who_copies_is_seen_to_copy():
    """The places that count as copied are exactly those that a copier can know."""
    validation = ValidationRows(rows())
    batch, places = validation.batch(0, 3)
    guessed = copied_next(batch.input_ids)
    copied = places == 4
    assert int(copied.sum()) == 3 * (32 - 8)
    assert torch.equal(guessed[copied], batch.labels[copied])
    assert (guessed[(places >= 0) & ~copied] == 0).all()  # what is scored as text is no copy


def test_token_losses_with_scale_and_cap():
    torch.manual_seed(0)
    hidden, weight = torch.randn(2, 11, 8), torch.randn(23, 8)
    labels = torch.randint(0, 23, (2, 11))
    labels[0, 3] = IGNORED
    head = Head(weight, torch.randn(23), 0.5, 3.0)
    nats, hits = token_losses(hidden, head, labels, chunk=4)
    logits = hidden.double() @ weight.double().T + head.bias.double()
    logits = 3.0 * torch.tanh(logits * 0.5 / 3.0)
    expected = F.cross_entropy(
        logits.reshape(-1, 23), labels.reshape(-1), reduction="none", ignore_index=IGNORED
    )
    assert torch.allclose(nats.reshape(-1).double(), expected, atol=1e-5)
    assert torch.equal(hits, (logits.argmax(-1) == labels))


def test_buckets_divide_every_length():
    for length in (2, 7, 64, 1000):
        bounds, places = bucket_bounds(length), bucket_places(length)
        assert bounds[0] == 0
        assert bounds[-1] == length
        for position in range(length - 1):
            low, high = bounds[places[position]], bounds[places[position] + 1]
            assert low <= position + 1 < high


def two_ranks(launch, context):
    from ctxext.training.parallel.context import parallelize_context
    from ctxext.training.parallel.mesh import make_mesh

    model, mesh = build(), make_mesh(launch, context)
    if context > 1:
        parallelize_context(model.model.get_base_model(), mesh)
    return measured(model, rows(), mesh, batch_size=1).to_dict()


@pytest.mark.parametrize("context", [1, 2])
def test_two_processes_measure_what_one_does(context, tmp_path):
    """Rows shared (three on two ranks: one reads a row that counts nowhere), or each row cut."""
    alone = measured(build(), rows()).to_dict()
    for found in run_ranks(two_ranks, 2, tmp_path, context):
        assert found["tokens"] == alone["tokens"]
        assert found["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert found["copied"] == alone["copied"]


def test_held_out_rows_are_never_trained_on():
    stream = np.arange(1000, dtype=np.uint32)
    packed = PackedRows(stream, 64, 0, held_out=4)
    assert packed.rows == 1000 // 64 - 4
    read = {int(token) for number in range(3 * packed.rows) for token in packed.row(number)}
    held = {int(token) for token in packed.held().reshape(-1)}
    assert len(held) == 4 * 64
    assert not read & held
    with pytest.raises(BadInput, match="has 15 rows of --seq-length 64, and 15 are held out"):
        PackedRows(stream, 64, 0, held_out=15)


def recipe(book, **validation):
    train = {
        "seq_length": LENGTH, "steps": 6, "save_every": 2, "gradient_accumulation": 2, "lr": 1e-3,
        "warmup_steps": 0,
    }  # fmt: skip
    sections = {"validation": validation} if validation else {}
    return {
        "data": {"source": str(book)}, "lora": {"dropout": 0.1}, "train": train,
        "extend": {"target": LENGTH}, **sections,
    }  # fmt: skip


def run(model, out, settings, **more):
    result = ctxext.finetune(str(model), output_dir=out, recipe=settings, device="cpu", **more)
    return result, read_log(out / "log.jsonl")


def test_measuring_changes_no_step(tiny_llama, book, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(book.read_text()[5000:9000])
    _, plain = run(tiny_llama, tmp_path / "plain", recipe(book))
    result, log = run(tiny_llama, tmp_path / "run", recipe(book, source=str(other), every=3))
    assert [line.loss for line in log if line.step] == [line.loss for line in plain]
    assert [line.step for line in log if line.validation] == [0, 3, 6]
    summary = result.validation
    assert summary.first.loss > summary.last.loss
    assert summary.last_step == 6
    document = json.loads((tmp_path / "run" / "ctxext.json").read_text())
    assert document["training"]["validation"]["last"]["loss"] == summary.last.loss
    assert document["training"]["recipe"]["validation"]["source"] == "other.txt"


def test_a_run_cut_in_two_measures_the_same(tiny_llama, book, tmp_path):
    settings = recipe(book, every=2, rows=2)
    _, whole = run(tiny_llama, tmp_path / "whole", settings)
    run(tiny_llama, tmp_path / "cut", settings)
    for file in (tmp_path / "cut" / "checkpoints" / "step-6").iterdir():
        file.unlink()
    _, cut = run(tiny_llama, tmp_path / "cut", None, resume=True)

    def numbers(log):
        return [(m.step, m.validation.loss, m.validation.copied) for m in log if m.validation]

    assert numbers(cut) == numbers(whole)


def test_the_best_step_is_what_is_merged(tiny_llama, book, tmp_path):
    """At a learning rate that ruins the model the best step is an early one."""
    settings = recipe(book, every=1, keep_best=True)
    settings["train"] |= {"lr": 3.0, "schedule": "constant", "spike_factor": 0, "steps": 4}
    out = tmp_path / "run"
    result, log = run(tiny_llama, out, settings)
    summary = result.validation
    assert summary.kept
    assert summary.best_step < 4
    assert summary.best.loss == min(m.validation.loss for m in log if m.validation)
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    best = load_file(best_file(out))
    assert sorted(float(t.double().sum()) for t in adapter.values()) == pytest.approx(
        sorted(float(t.double().sum()) for t in best.values())
    )


def test_the_command_shows_it(tiny_llama, book, tmp_path):
    extend = ("--method", "linear", "--target", LENGTH)
    flags = ("--seq-length", LENGTH, "--steps", 4, "--gradient-accumulation", 1, "--lr", "1e-3")
    out = tmp_path / "run"
    done = run_ctxext(
        "finetune", tiny_llama, *extend, "--data", book, *flags, "--eval-every", 2, "--device",
        "cpu", "-o", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        "validation: 4 rows held out of --data, read before the first step, every 2 steps and "
        "after the last: about 100% more work"
    ) in " ".join(done.stderr.split())
    assert "the warm-up of 10 steps is longer than the run of 4" in done.stderr
    for words in ("before", "step 4, the last", "128-256", "copied", "validation loss"):
        assert words in done.stdout
    refused = run_ctxext("finetune", tiny_llama, "--data", book, "--keep-best", "-o", out)
    assert refused.returncode == 2
    assert "needs a validation loss" in refused.stderr
    unreached = ("--eval-data", "hf:nobody/nothing", "-o", tmp_path / "x")
    offline = {"HF_HUB_OFFLINE": "1"}
    failed = run_ctxext("finetune", tiny_llama, "--data", book, *unreached, env=offline)
    assert failed.returncode in (1, 2)
    assert "ctxext: --eval-data hf:nobody/nothing" in failed.stderr
    missing = ("--eval-data", tmp_path / "no.txt", "-o", tmp_path / "x")
    refused = run_ctxext("finetune", tiny_llama, "--data", book, *missing)
    assert refused.returncode == 2
    assert "--eval-data" in refused.stderr


def test_a_best_step_that_is_gone(tiny_llama, book, tmp_path):
    """Said before any work, and --keep-last is a way out; nothing else is merged in silence."""
    settings = recipe(book, every=1, keep_best=True)
    settings["train"] |= {"lr": 3.0, "schedule": "constant", "spike_factor": 0, "steps": 4}
    out = tmp_path / "run"
    result, log = run(tiny_llama, out, settings)
    step = result.validation.best_step
    assert any("no step had a lower" in words for words in result.warnings) == (step == 0)
    best_file(out).write_bytes(best_file(out).read_bytes()[:100])
    with pytest.raises(BadInput, match=rf"is step {step}, and \S+ is damaged"):
        run(tiny_llama, out, None, resume=True)
    best_file(out).unlink()
    done = run_ctxext("finetune", "--resume", "-o", out, "--device", "cpu")
    assert done.returncode == 2
    assert f"the best step so far is step {step}" in done.stderr
    assert "--keep-last" in done.stderr
    done = run_ctxext("finetune", "--resume", "-o", out, "--device", "cpu", "--keep-last", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)["validation"]
    assert not summary["kept"]
    assert [line.loss for line in read_log(out / "log.jsonl")] == [line.loss for line in log]


def test_a_best_step_is_merged_with_a_warning_where_nothing_got_better(tiny_llama, book, tmp_path):
    settings = recipe(book, every=2, keep_best=True)
    settings["train"] |= {"lr": 30.0, "schedule": "constant", "spike_factor": 0, "steps": 2}
    result, _ = run(tiny_llama, tmp_path / "run", settings)
    assert result.validation.best_step == 0
    assert any("merged/ is the model as it was before training" in w for w in result.warnings)


def test_what_is_measured_is_named(tiny_llama, book, tmp_path):
    """Text that is trained on too, rows of all texts, fields as --data's, positions of PoSE."""
    notes, starts = [], []
    hear = {"on_note": notes.append, "on_start": starts.append}
    settings = recipe(book, source=str(book), every=6)
    settings["train"] |= {"pose_target": 2 * LENGTH}
    settings["extend"] = {"target": 2 * LENGTH}
    run(tiny_llama, tmp_path / "twice", settings, **hear)
    assert any("is read by --data too" in note for note in notes)
    assert any(f"at positions 0 to {LENGTH}" in note for note in starts[0].notes)
    notes.clear(), starts.clear()

    texts = []
    for number in range(3):
        lines = book.read_text()[number * 4000 : (number + 1) * 4000]
        texts.append(tmp_path / f"{number}.jsonl")
        texts[-1].write_text(json.dumps({"content": lines}) + "\n")
    entries = [{"source": str(text), "field": "content"} for text in texts]
    settings = recipe(book, every=6) | {"data": entries}
    settings["train"] |= {"seq_length": 128}
    run(tiny_llama, tmp_path / "three", settings, **hear)
    assert any(note.startswith("validation: 6 rows held out") for note in starts[0].notes)
    settings = recipe(book, source=str(texts[0]), every=6)
    settings["data"] = {"source": str(texts[1]), "field": "content"}
    settings["train"] |= {"seq_length": 128}
    result, _ = run(tiny_llama, tmp_path / "field", settings, **hear)
    assert result.validation is not None
    settings["validation"]["field"] = "nothing"
    with pytest.raises(BadInput, match=r"--eval-data 0\.jsonl, line 1, has no text") as caught:
        run(tiny_llama, tmp_path / "x", settings)
    assert "--set validation.field=NAME" in caught.value.hint
    assert not notes


def test_held_out_rows_are_of_every_text():
    config = FinetuneConfig(
        data=DataConfig(sources=tuple(SourceConfig(source=f"{n}") for n in range(3))),
        train=TrainConfig(seq_length=64),
        validation=ValidationConfig(every=1),
    )
    assert (config.held_of_each, config.validation_rows) == (2, 6)
    texts = [text_of(range(number * 1000, number * 1000 + 640)) for number in range(3)]
    mixture = mixed_rows(config, texts)
    measured_ = validation_rows(config, mixture, None)
    assert [int(row[0]) // 1000 for row in measured_] == [0, 0, 1, 1, 2, 2]
    read = {int(token) for number in range(60) for token in mixture.batch(number, 1).reshape(-1)}
    assert not read & set(measured_.reshape(-1).tolist())


def text_of(tokens):
    ids = np.asarray(tokens, dtype=np.uint32)
    return TokenFile(ids, np.asarray([len(ids)]), "text", f"{ids[0]}", "", 0, int(ids.max()))


def test_a_loss_that_is_not_finite():
    lost = Validation(loss=None, by_position=(PositionLoss(start=0, end=8, loss=None),))
    log = [
        StepRow(step=0, loss=None, tokens=0, validation=Validation(loss=2.0)),
        StepRow(step=1, loss=None, tokens=8, validation=lost),
    ]
    assert StepRow.from_dict(json.loads(json.dumps(log[1].to_dict()))) == log[1]
    summary = summarised(log, keeps_best=True)
    assert (summary.best_step, summary.last.loss) == (0, None)
    model = build()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("inf"))
    broken = measured(model, rows())
    assert broken.loss is None
    assert {part.loss for part in broken.by_position} == {None}


def test_the_headline_is_a_mean():
    lines = [StepRow(step=n, loss=float(n), tokens=n) for n in range(1, 101)]
    assert recent_loss(lines) == (95.5, 10)
    assert recent_loss(lines[:3]) == (2.0, 3)
    assert recent_loss([]) == (None, 0)
    assert summarised(lines, keeps_best=False) is None
    measured_ = [Validation(loss=loss) for loss in (3.0, 1.0, 2.0)]
    log = [StepRow(step=n, loss=None, tokens=0, validation=v) for n, v in enumerate(measured_)]
    summary = summarised(log, keeps_best=True)
    assert (summary.best_step, summary.best.loss, summary.last.loss) == (1, 1.0, 2.0)


def test_what_contradicts_itself_is_refused():
    with pytest.raises(BadInput, match="needs a validation loss"):
        ValidationConfig(keep_best=True)
    with pytest.raises(BadInput, match=r"validation\.rows is 0"):
        ValidationConfig(rows=0)
    assert "validation" not in FinetuneConfig().to_dict()
    assert ValidationConfig(every=5).steps_between(100) == 5
    assert ValidationConfig(source="x").steps_between(95) == 10
