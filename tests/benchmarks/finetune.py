"""Fine-tuning side by side: ctxext, a plain loop, transformers' Trainer + peft, TRL's SFTTrainer.

    python tests/benchmarks/finetune.py                         (the whole grid: about an hour)
    python tests/benchmarks/finetune.py --cells 32k:2k --steps 3
    python tests/benchmarks/finetune.py --trl /path/to/venv/bin/python
    python tests/benchmarks/finetune.py --slope                 (memory a token, at 32 layers)

One process a row, one thread; the same random Llama (hidden 256, 4 layers), LoRA r=16 on q, k, v
and o, the same blocks in the same order, float32, AdamW at a constant rate. Tokens per CPU second
leave the first step out and are of the fastest of the others; the peak is the process's, over what
it held when the model was loaded; beside it stands what `finetune --dry-run` says of it. For every
row alike, freed memory goes back to the system at once (MALLOC_MMAP_THRESHOLD_), so that the peak
is that of tensors and not of malloc's habits. Prints
Markdown, and fails when losses differ by more than 1e-5 relative. TRL runs in an environment of its
own (`--trl`: a Python that has trl, peft and ctxext's requirements); without one its rows are left
out, and that is said. A row that would need more memory than there is is said too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

WAYS = {
    "ctxext": {"recompute": "all"},
    "ctxext --recompute auto": {"recompute": "auto"},
    "ctxext, MLP tiled, offloaded": {"mlp_tile": 1024, "offload": "activations"},
    "plain loop": None,
    "Trainer + peft": None,
    "TRL SFTTrainer": None,
}
TRL = "TRL SFTTrainer"
LR, ALPHA, RANK = 2e-4, 32, 16
HIDDEN, LAYERS = 256, 4
DEEP, SLOPE_LENGTHS = 32, (4096, 8192)
SLOPE_WAYS = {
    "ctxext": {"recompute": "all"},
    "ctxext, MLP tiled": {"recompute": "all", "mlp_tile": 1024},
}


def status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise SystemExit("no /proc/self/status here: the peak cannot be read")


def build_model(vocabulary, length, layers=LAYERS):
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=HIDDEN, intermediate_size=704, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=length,
        pad_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def packed(vocabulary, length, steps):
    import numpy as np

    from ctxext.data.packing import PackedRows

    rng = np.random.default_rng(0)
    stream = rng.integers(0, vocabulary, length * steps + 1, dtype=np.uint32)
    return PackedRows(stream, length, 0)


class Meter:
    """CPU seconds at the end of each step, and the peak since the model was loaded."""

    def __init__(self):
        Path("/proc/self/clear_refs").write_text("5")
        self.loaded = status("VmRSS")
        self.marks = [time.process_time()]

    def mark(self, *_):
        self.marks.append(time.process_time())

    def report(self, losses, length, estimate=None):
        steps = [after - before for before, after in pairwise(self.marks[1:])]
        return {
            "losses": losses,
            "speed": length / min(steps),
            "peak": status("VmHWM") - self.loaded,
            "estimate": estimate,
        }


def run_ctxext(memory, vocabulary, length, steps, layers=LAYERS):
    import torch
    from accelerate import Accelerator

    from ctxext.data.mixture import Mixture
    from ctxext.machine.launch import Launch
    from ctxext.runs.log import StepLog
    from ctxext.runs.recipe.config import FinetuneConfig, LoraConfig, TrainConfig
    from ctxext.runs.recipe.memory_config import MemoryConfig
    from ctxext.runs.rows.training import RunState
    from ctxext.training.estimate.memory import adapter_bytes, checkpoint_bytes, step_bytes
    from ctxext.training.estimate.plan import FIRST_PASS
    from ctxext.training.memory.switches import (
        apply_memory,
        loss_chunk_of,
        pass_of,
        shape_of,
        step_memory,
    )
    from ctxext.training.model.batch import TrainingRows
    from ctxext.training.model.lora import LossModel, add_adapters
    from ctxext.training.parallel.mesh import Mesh
    from ctxext.training.run.loop import Prepared, train_steps
    from ctxext.training.run.setting import Listeners
    from ctxext.training.run.stop import StopRequest

    rows, base = packed(vocabulary, length, steps), build_model(vocabulary, length, layers)
    meter = Meter()
    train = TrainConfig(
        seq_length=length, steps=steps, gradient_accumulation=1, lr=LR, schedule="constant",
        warmup_steps=0, save_every=steps,
    )  # fmt: skip
    config = FinetuneConfig(
        lora=LoraConfig(rank=RANK, alpha=ALPHA), train=train, memory=MemoryConfig(**memory)
    )
    torch.manual_seed(0)  # the same adapters everywhere
    wrapped = add_adapters(base, config.lora, "bench")
    plan = apply_memory(wrapped, config, step_memory(wrapped, config))
    trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    shape, step = shape_of(wrapped), pass_of(wrapped, config)
    estimate = FIRST_PASS + adapter_bytes(trained) + step_bytes(shape, step, plan.recomputed)
    if step.offload:  # on a CPU what is parked lies in the same memory
        estimate += checkpoint_bytes(shape, replace(step, offload=False), plan.recomputed)
    model = LossModel(wrapped, loss_chunk_of(wrapped, config)).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
    data = TrainingRows(Mixture((rows,), (1.0,), 0), "")
    with tempfile.TemporaryDirectory() as folder:
        log = StepLog(Path(folder) / "log.jsonl", after=0)
        train_steps(
            Prepared(model, model, optimizer, data, Accelerator(cpu=True), Mesh(Launch())), train,
            RunState(0, 0, {}, "", rows_per_step=1), log=log, save=lambda state: None,
            stop=StopRequest(), listeners=Listeners(progress=meter.mark),
        )  # fmt: skip
        log.close()
    losses = [line.loss for line in log.lines]
    return meter.report(losses, length, estimate / 2**20)


def run_plain(vocabulary, length, steps):
    """What one writes by hand: the model's own loss, gradient checkpointing, AdamW."""
    import peft
    import torch

    rows, base = packed(vocabulary, length, steps), build_model(vocabulary, length)
    meter = Meter()
    lora = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(0)  # the same adapters everywhere
    model = peft.get_peft_model(base, lora).train()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for step in range(steps):
        ids = torch.tensor(rows.batch(step, 1).astype("int64"))
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss))
        meter.mark()
    return meter.report(losses, length)


def run_trainer(library, vocabulary, length, steps):
    import datasets
    import peft
    import torch
    import transformers

    rows, base = packed(vocabulary, length, steps), build_model(vocabulary, length)
    meter = Meter()
    ids = [rows.batch(i, 1)[0].tolist() for i in range(steps)]
    data = datasets.Dataset.from_dict({"input_ids": ids, "labels": ids})
    lora = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        task_type="CAUSAL_LM",
    )  # fmt: skip
    torch.manual_seed(0)  # the same adapters everywhere
    model = peft.get_peft_model(base, lora)
    losses = []

    class Marks(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            meter.mark()

        def on_log(self, args, state, control, logs=None, **_):
            losses.extend([logs["loss"]] if "loss" in logs else [])

    def in_order(trainer_class):
        class InOrder(trainer_class):
            def _get_train_sampler(self, *_):
                return torch.utils.data.SequentialSampler(self.train_dataset)

        return InOrder

    with tempfile.TemporaryDirectory() as folder:
        common = {
            "output_dir": folder, "max_steps": steps, "per_device_train_batch_size": 1,
            "learning_rate": LR, "lr_scheduler_type": "constant", "adam_beta2": 0.95,
            "gradient_checkpointing": True, "logging_steps": 1, "report_to": "none",
            "gradient_checkpointing_kwargs": {"use_reentrant": False}, "use_cpu": True,
            "save_strategy": "no", "disable_tqdm": True, "bf16": False,
        }  # fmt: skip
        if library == TRL:
            import trl

            # The tokenizer is never used: the blocks are ids already.
            from ctxext.lab.byte_llama import byte_tokenizer

            Path(folder, "tokenizer.json").write_text(json.dumps(byte_tokenizer()))
            tokenizer = transformers.PreTrainedTokenizerFast(
                tokenizer_file=f"{folder}/tokenizer.json"
            )
            tokenizer.pad_token = tokenizer.eos_token = tokenizer.convert_ids_to_tokens(0)
            arguments = trl.SFTConfig(
                **common, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}
            )
            trainer = in_order(trl.SFTTrainer)(
                model, arguments, train_dataset=data, processing_class=tokenizer,
                callbacks=[Marks()],
            )  # fmt: skip
        else:
            trainer = in_order(transformers.Trainer)(
                model, transformers.TrainingArguments(**common), train_dataset=data,
                callbacks=[Marks()],
            )  # fmt: skip
        trainer.train()
    return meter.report(losses, length)


def row(way, vocabulary, length, steps, python, layers=LAYERS):
    """The row's numbers, or why there are none."""
    done = subprocess.run(
        [python, __file__, "--row", json.dumps([way, vocabulary, length, steps, layers])],
        capture_output=True,
        text=True,
        env={
            **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )  # fmt: skip
    if done.returncode == -9:
        return "killed: out of memory"
    if done.returncode:
        raise SystemExit(f"{way} at {vocabulary}, {length} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def too_large(way, vocabulary, length):
    """Three float32 tensors of length x vocabulary, which the library's own loss makes."""
    needed = 3 * 4 * vocabulary * length * (way in ("plain loop", "Trainer + peft", TRL))
    return needed > 0.8 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def only_row(way, vocabulary, length, steps, layers):
    memory = {**WAYS, **SLOPE_WAYS}[way]
    if memory is not None:
        return run_ctxext(memory, vocabulary, length, steps, layers)
    if way == "plain loop":
        return run_plain(vocabulary, length, steps)
    return run_trainer(way, vocabulary, length, steps)


def print_slope(steps):
    """How the peak grows with the row, against the hidden states the layers start from."""
    kept = 4 * HIDDEN * DEEP / 1024
    short, long = SLOPE_LENGTHS
    print(
        f"{DEEP} layers, hidden {HIDDEN}, vocabulary 32k: checkpoints need {kept:.0f} KiB a token"
    )
    print("\n| how | MiB at 4k | MiB at 8k | KiB a token | over the checkpoints |")
    print("| --- | --- | --- | --- | --- |")
    for way in SLOPE_WAYS:
        peaks = [row(way, 32_000, n, steps, sys.executable, DEEP)["peak"] for n in SLOPE_LENGTHS]
        slope = 1024 * (peaks[1] - peaks[0]) / (long - short)
        print(
            f"| {way} | {peaks[0]:.0f} | {peaks[1]:.0f} | {slope:.1f} | {slope / kept - 1:.0%} |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default="32k:2k,32k:4k,32k:8k,32k:16k,128k:2k,128k:4k,128k:8k")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--trl", help="a Python with TRL")
    parser.add_argument("--slope", action="store_true", help="only the peak's growth, 32 layers")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(only_row(*json.loads(given.row))))
        return
    if given.slope:
        print_slope(given.steps)
        return
    vocabularies = {"32k": 32_000, "128k": 128_256}
    ways = list(WAYS)
    if not given.trl:
        ways.remove(TRL)
        print("TRL is left out: no --trl was given\n")
    print("| vocabulary | tokens | how | tokens per CPU second | peak over the model, MiB |"
          " dry run says, MiB |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- |")
    for cell in given.cells.split(","):
        vocabulary, length = cell.split(":")
        size, tokens = vocabularies[vocabulary], int(length[:-1]) * 1024
        reference = None
        for way in ways:
            python = given.trl if way == TRL else sys.executable
            if too_large(way, size, tokens):
                print(f"| {vocabulary} | {length} | {way} | does not fit here | | |", flush=True)
                continue
            got = row(way, size, tokens, given.steps, python)
            if isinstance(got, str):
                print(f"| {vocabulary} | {length} | {way} | {got} | | |", flush=True)
                continue
            reference = reference or got["losses"]
            for ours, theirs in zip(got["losses"], reference, strict=True):
                if abs(ours - theirs) > 1e-5 * abs(theirs):
                    raise SystemExit(f"{way}: losses {got['losses']}, and not {reference}")
            says = f"{got['estimate']:.0f}" if got["estimate"] else ""
            cells = (vocabulary, length, way, f"{got['speed']:.0f}", f"{got['peak']:.0f}", says)
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
