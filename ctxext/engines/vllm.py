"""How vLLM reads a config."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="vLLM",
    rank=1,
    source="vllm-project/vllm: vllm/model_executor/layers/rotary_embedding/__init__.py, "
    "phi3_long_rope_scaled_rope.py, "
    "vllm/config/model.py (_get_and_verify_max_len)",
    readings={"linear": "window-again", "dynamic": "old-window", "longrope": "old-window"},
    ignored_keys={"attention_factor": "older"},  # mended in August 2026
    # Removed with the V0 engine: vllm-project/vllm#25351 and #49296.
    top_keys={"dual_chunk_attention_config": "0.8.5 to 0.10"},
    window_flag="--max-model-len",
    serve="vllm serve {repo} --max-model-len {target}",
)
