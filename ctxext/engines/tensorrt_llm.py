"""How TensorRT-LLM reads a config."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="TensorRT-LLM",
    rank=8,
    source="NVIDIA/TensorRT-LLM: tensorrt_llm/_torch/attention_backend/interface.py",
    readings={"dynamic": "refused"},  # it asks for an alpha, which no such config has
    list_attention="standard",
    ignored_keys={"attention_factor": "", "truncate": ""},
    reads_rope_parameters=False,
)
