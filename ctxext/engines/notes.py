"""What serving engines do with each method's config: data, read from their sources.

One line for each thing that goes wrong; what is not listed works. `linear`, `ntk`, `llama3` and
plain `yarn` were also run against llama.cpp and agree with transformers to rounding.
"""

from collections.abc import Mapping
from typing import Any, Final

FIRST_TRANSFORMERS: Final = {
    "linear": "4.31", "dynamic": "4.31", "ntk": "any", "llama3": "4.43", "yarn": "4.51",
}  # fmt: skip
"""The first transformers release that computes the method rightly."""

_FIRST_OF_MISTRAL: Final = "4.48"  # its class ignored rope_scaling before


def first_transformers(method: str, model_type: str) -> str:
    """The first transformers release in which a family's class computes a method rightly."""
    first = FIRST_TRANSFORMERS.get(method, "4.51")
    if model_type == "mistral" and first in ("4.31", "4.43"):
        return _FIRST_OF_MISTRAL
    return first


_ALWAYS: Final = {
    "linear": (
        "TGI ignores linear scaling",
        "vLLM and SGLang multiply the window by the factor once more: "
        "pass --max-model-len / --context-length {target}",
    ),
    "dynamic": (
        "dynamic scaling is lost in GGUF, ExLlamaV3 and Ollama: use ntk or yarn to serve there",
        "engines offer the original window: pass --max-model-len / --context-length {target}",
    ),
    "ntk": (),
    "llama3": (),
    "yarn": (),
}
_YARN_KEYS: Final = {
    "attention_factor": "attention_factor is ignored by llama.cpp, MLX, TGI and older vLLM",
    "beta_fast": "beta_fast is ignored by llama.cpp and TGI",
    "beta_slow": "beta_slow is ignored by llama.cpp and TGI",
    "truncate": "truncate is ignored by llama.cpp and most engines",
}


def engine_notes(method: str, rope_block: Mapping[str, Any], target: int) -> list[str]:
    """What to know before serving a checkpoint whose config holds this block."""
    notes = [note.format(target=target) for note in _ALWAYS.get(method, ())]
    if method == "yarn":
        notes += [note for key, note in _YARN_KEYS.items() if key in rope_block]
    return notes


_SERVE: Final = (
    ("vLLM", "vllm serve {repo} --max-model-len {target}"),
    ("SGLang", "python -m sglang.launch_server --model-path {repo} --context-length {target}"),
    (
        "llama.cpp",
        "hf download {repo} --local-dir model && python convert_hf_to_gguf.py model "
        "--outfile model.gguf && llama-server -m model.gguf -c {target}",
    ),
    ("Ollama", "FROM ./model.gguf and PARAMETER num_ctx {target} in a Modelfile"),
    ("MLX", "mlx_lm.generate --model {repo} --prompt -"),
)


def serve_commands(repo_id: str, target: int) -> list[tuple[str, str]]:
    """(engine, command) with plain numbers of tokens: vLLM's own `k` is 1000."""
    return [(engine, command.format(repo=repo_id, target=target)) for engine, command in _SERVE]
