"""How SGLang reads a config."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="SGLang",
    rank=2,
    source="sgl-project/sglang: python/sglang/srt/layers/rotary_embedding/factory.py, "
    "hf_transformers_utils.py (get_context_length), "
    "layers/attention/dual_chunk_flashattention_backend.py",
    readings={"linear": "window-again", "dynamic": "old-window"},
    ignored_keys={"attention_factor": ""},
    # Chosen by itself where the config has the key: sgl-project/sglang#9032.
    top_keys={"dual_chunk_attention_config": ""},
    window_flag="--context-length",
    serve="python -m sglang.launch_server --model-path {repo} --context-length {target}",
)
