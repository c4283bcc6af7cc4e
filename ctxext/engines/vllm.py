"""How vLLM reads a config."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="vLLM",
    rank=1,
    source="vllm-project/vllm: vllm/model_executor/layers/rotary_embedding/__init__.py, "
    "vllm/config/model.py (_get_and_verify_max_len)",
    readings={"linear": "window-again", "dynamic": "old-window"},
    ignored_keys={"attention_factor": "older"},  # mended in August 2026
    window_flag="--max-model-len",
    serve="vllm serve {repo} --max-model-len {target}",
)
