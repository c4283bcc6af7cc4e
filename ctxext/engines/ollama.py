"""How Ollama reads a config, from a GGUF file: its own converter reads less."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="Ollama",
    rank=4,
    source="ollama/ollama: convert/convert_llama.go, convert_qwen2.go",
    readings={"dynamic": "lost", "longrope": "ignored"},
    window_flag="num_ctx",
    serve="FROM ./model.gguf and PARAMETER num_ctx {target} in a Modelfile",
)
