"""Broken copies of a checkpoint, and what a refusal looks like."""

import json
import re
import shutil
import struct

from support.command import run_ctxext

ABSENT = object()
# The tiny checkpoint in the dialect that most files of the world are in.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rope_theta": 10000.0,
    "vocab_size": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
ADAPTER = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none",
    "base_model_name_or_path": "https://example.invalid/base",
}  # fmt: skip
Q = "base_model.model.model.layers.0.self_attn.q_proj"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


def config_text(**changes):
    """CONFIG as JSON with some keys changed, or left out where the value is ABSENT."""
    config = CONFIG | changes
    return json.dumps({key: value for key, value in config.items() if value is not ABSENT})


def with_config(folder, text):
    """A folder that holds nothing but a config.json: enough for what is refused because of it."""
    folder.mkdir()
    (folder / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def copy_of(base, folder, **changes):
    """A whole checkpoint that can be broken, its config in the older dialect."""
    shutil.copytree(base, folder)
    (folder / "config.json").write_text(config_text(**changes))
    return folder


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def shard(header, data=b"", *, length=None):
    """The bytes of a safetensors file around a header that may be anything."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def f32(*shape, at=0):
    """The header's entry for one float32 tensor whose bytes begin at `at`."""
    count = 4
    for size in shape:
        count *= size
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + count]}


def adapter_in(folder, tensors=None, **changes):
    """An adapter for the tiny checkpoint; `tensors`: name -> array, or None for a good pair."""
    import numpy as np
    from safetensors.numpy import save_file

    if tensors is None:
        tensors = lora()
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(ADAPTER | changes))
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    return folder


def lora(module=Q, rank=2, rows=64, columns=64):
    import numpy as np

    return {
        f"{module}.lora_A.weight": np.ones((rank, columns), np.float32),
        f"{module}.lora_B.weight": np.ones((rows, rank), np.float32),
    }


def refused(done, code, *words):
    """One sentence (and perhaps a hint) on stderr that holds `words`, and the right exit code."""
    shown = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == code, shown
    assert "Traceback" not in done.stderr, shown
    assert len(errors_in(done.stderr)) == 1, shown
    for word in words:
        assert word in done.stderr, shown


def errors_in(stderr):
    """The sentences on stderr that say what went wrong; lines of progress begin like them."""
    lines = [line for line in stderr.splitlines() if line.startswith("ctxext: ")]
    progress = re.compile(r" \d+/\d+ \(\d+ %\)|^ctxext: still at ")
    return [line for line in lines if not progress.search(line)]


def accepted(done, *words):
    """Exit code 0, and `words` on stdout or stderr."""
    shown = f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, shown
    assert "Traceback" not in done.stderr, shown
    for word in words:
        assert word in done.stdout + done.stderr, shown


def extend_refused(model, code, *words, flags=("--target", "512")):
    """`ctxext extend` says no, and beside the model nothing is left: no output, no half of one."""
    before = names(model.parent)
    done = run_ctxext("extend", model, *flags, "-o", model.parent / "out")
    refused(done, code, *words)
    assert names(model.parent) == before


def names(folder):
    """Everything in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def content(folder):
    """Every file below a folder with its bytes: to see that nothing in it has changed."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
