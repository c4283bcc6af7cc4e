"""Perplexity side by side: ctxext, the transformers documentation's loop, YaRN's script, lm-eval.

    python tests/benchmarks/eval_ppl.py                       (the whole grid: twenty minutes)
    python tests/benchmarks/eval_ppl.py --cells 32k:2k
    python tests/benchmarks/eval_ppl.py --lm-eval /path/to/venv/bin/python

One process a row, one thread, float32, random Llamas (vocabulary 32k: hidden 256, 4 layers;
128k: hidden 512, 8 layers, tied), random tokens. CPU seconds are of a window; of sliding ones the
first is left out, since it scores all its tokens where thousands of others score 256. The peak is
the process's over what it held when the model was loaded. Prints Markdown, and fails when two ways
to one number differ by more than 1e-4 relative.

Sliding: stride 256, against the loop of the documentation ("Perplexity of fixed-length models"),
its means weighted by the tokens that they are of. YaRN: that script's procedure and its mean over
windows. Rolling: every token scored once, lm-eval's `loglikelihood_rolling` (one BOS before the
text: `add_bos_token=False`, or a Llama tokenizer's own would be a second one). lm-eval runs in an
environment of its own (`--lm-eval`: a Python that has it and ctxext's requirements); without one
its rows are left out, and that is said.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STRIDE = 256
VOCABULARIES = {"32k": 32_000, "128k": 128_256}
CELLS = "32k:2k,32k:4k,32k:8k,32k:16k,128k:2k,128k:4k"
PAIRS = {
    "sliding": ("ctxext", "transformers docs"),
    "yarn": ("ctxext --protocol yarn", "YaRN's script"),
    "rolling": ("ctxext, each token once", "lm-eval rolling"),
}
LM_EVAL = "lm-eval rolling"


def status(key):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    raise SystemExit("no /proc/self/status here: the peak cannot be read")


def build_model(vocabulary, length):
    import torch
    import transformers

    torch.manual_seed(0)
    small = vocabulary < 100_000
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=256 if small else 512,
        intermediate_size=704 if small else 1152, num_hidden_layers=4 if small else 8,
        num_attention_heads=4 if small else 8, num_key_value_heads=4 if small else 8,
        max_position_embeddings=2 * length, tie_word_embeddings=not small,
        pad_token_id=None, bos_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def tokens_of(vocabulary, count):
    import numpy as np

    return np.random.default_rng(0).integers(1, vocabulary, count, dtype=np.uint32)


def ours(way, vocabulary, length, windows, meter):
    from ctxext.evaluation.perplexity.scores import Protocols, by_length
    from ctxext.evaluation.reading.reading import Reading
    from ctxext.evaluation.reading.scoring import Scorer

    model = build_model(vocabulary, length)
    if way == PAIRS["rolling"][0]:
        import numpy as np

        # One BOS, and windows that begin with the last token of the one before, as lm-eval cuts.
        ids = np.concatenate([[0], tokens_of(vocabulary, length * windows)]).astype(np.uint32)
        length, protocols = length + 1, Protocols("sliding", length)
    else:
        ids = tokens_of(vocabulary, length + (windows - 1) * STRIDE)
        protocols = Protocols("yarn" if "yarn" in way else "sliding", STRIDE)
    scorer = Scorer(model)
    meter.begin()
    reading = Reading(scorer, on_progress=lambda *_: meter.window())
    return by_length(reading, [ids], length, protocols).score.perplexity


def transformers_docs(vocabulary, length, windows, meter):
    """The documentation's loop; only its last line is made exact."""
    import torch

    model = build_model(vocabulary, length)
    ids = torch.from_numpy(tokens_of(vocabulary, length + (windows - 1) * STRIDE).astype("int64"))
    ids = ids[None]
    meter.begin()
    total, count, previous = 0.0, 0, 0
    for begin in range(0, ids.size(1), STRIDE):
        end = min(begin + length, ids.size(1))
        scored = end - previous
        part = ids[:, begin:end]
        target = part.clone()
        target[:, :-scored] = -100
        with torch.no_grad():
            loss = model(part, labels=target).loss
        known = int((target[:, 1:] != -100).sum())
        total, count, previous = total + float(loss) * known, count + known, end
        meter.window()
        if end == ids.size(1):
            break
    return math.exp(total / count)


def yarn_script(vocabulary, length, windows, meter):
    """jquesnelle/yarn eval/perplexity.py, compute_perplexity with a sliding window."""
    import torch
    from torch.nn import CrossEntropyLoss

    model = build_model(vocabulary, length)
    ids = torch.from_numpy(tokens_of(vocabulary, length + (windows - 1) * STRIDE).astype("int64"))
    ids = ids[None]
    meter.begin()
    nlls, previous = [], 0
    entropy = CrossEntropyLoss(reduction="none")
    for begin in range(0, ids.size(1), STRIDE):
        end = min(begin + length, ids.size(1))
        scored = end - previous
        part = ids[:, begin:end]
        target = part.clone()
        target[:, :-scored] = -100
        with torch.no_grad():
            logits = model(part).logits
            shift = logits[..., :-1, :].contiguous()
            labels = target[..., 1:].contiguous()
            known = labels != -100
            loss = entropy(shift.view(-1, shift.size(-1)), labels.view(-1))
            nlls.append(float(loss.sum() / known.sum()))
        previous = end
        meter.window()
        if end == ids.size(1):
            break
    return math.exp(sum(nlls) / len(nlls))


def lm_eval_rolling(vocabulary, length, windows, meter):
    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from tokenizers import Tokenizer, models, pre_tokenizers

    model = build_model(vocabulary, length)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocabulary)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with tempfile.TemporaryDirectory() as folder:
        words.save(f"{folder}/tokenizer.json")
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=f"{folder}/tokenizer.json", bos_token="t0", eos_token="t0",
            pad_token="t0",
        )  # fmt: skip
    lm = HFLM(
        pretrained=model, tokenizer=tokenizer, max_length=length, batch_size=1,
        add_bos_token=False, device="cpu",
    )  # fmt: skip
    ids = tokens_of(vocabulary, length * windows)
    text = " ".join(f"t{i}" for i in ids)
    request = Instance("loglikelihood_rolling", {}, (text,), 0)
    meter.begin()
    (total,) = lm.loglikelihood_rolling([request], disable_tqdm=True)
    return math.exp(-total / len(ids))


class Meter:
    """CPU seconds, and the peak over what was held at the beginning."""

    def begin(self):
        Path("/proc/self/clear_refs").write_text("5")
        self.loaded, self.began = status("VmRSS"), time.process_time()
        self.first = None

    def window(self):
        if self.first is None:
            self.first = time.process_time()

    def report(self, perplexity, windows, *, sliding):
        if sliding:
            seconds = (time.process_time() - self.first) / (windows - 1)
        else:
            seconds = (time.process_time() - self.began) / windows
        return {"perplexity": perplexity, "seconds": seconds,
                "peak": status("VmHWM") - self.loaded}  # fmt: skip


def only_row(way, vocabulary, length, windows):
    others = {
        "transformers docs": transformers_docs,
        "YaRN's script": yarn_script,
        LM_EVAL: lm_eval_rolling,
    }
    meter = Meter()
    if way in others:
        found = others[way](vocabulary, length, windows, meter)
    else:
        found = ours(way, vocabulary, length, windows, meter)
    return meter.report(found, windows, sliding=way not in PAIRS["rolling"])


def row(way, vocabulary, length, windows, python):
    done = subprocess.run(
        [python, __file__, "--row", json.dumps([way, vocabulary, length, windows])],
        capture_output=True,
        text=True,
        env={
            **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{way} at {vocabulary}, {length} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default=CELLS)
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--lm-eval", help="a Python with lm-eval")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(only_row(*json.loads(given.row))))
        return
    if not given.lm_eval:
        print("lm-eval is left out: no --lm-eval was given\n")
    print("| vocabulary | length | how | perplexity | CPU s a window | times faster |"
          " MiB over the model | of the peer's |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for cell in given.cells.split(","):
        vocabulary, length = cell.split(":")
        size, tokens = VOCABULARIES[vocabulary], int(length[:-1]) * 1024
        for kind, (we, peer) in PAIRS.items():
            if peer == LM_EVAL and not given.lm_eval:
                continue
            windows = 2 if kind == "rolling" else given.windows
            # Both by the same Python, in turns, so that one machine's mood is in both.
            python = given.lm_eval if peer == LM_EVAL else sys.executable
            mine, theirs = (row(way, size, tokens, windows, python) for way in (we, peer))
            if abs(mine["perplexity"] / theirs["perplexity"] - 1) > 1e-4:
                raise SystemExit(f"{we}: {mine['perplexity']}, {peer}: {theirs['perplexity']}")
            faster = f"{theirs['seconds'] / mine['seconds']:.2f}"
            share = f"{mine['peak'] / theirs['peak']:.0%}"
            for way, got, extra in ((we, mine, (faster, share)), (peer, theirs, ("", ""))):
                cells = (
                    vocabulary, length, way, f"{got['perplexity']:.2f}", f"{got['seconds']:.3f}",
                    extra[0], f"{got['peak']:.0f}", extra[1],
                )  # fmt: skip
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
