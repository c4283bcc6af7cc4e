"""How Ollama reads a config, from a GGUF file: its own converter reads less."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="Ollama",
    rank=4,
    source="ollama/ollama: convert/convert_llama.go, convert_qwen2.go",
    readings={"dynamic": "lost", "longrope": "ignored"},
    # What llama.cpp's converter leaves out of the file that it runs.
    ignored_keys={
        "attention_factor": "",
        "beta_fast": "older",
        "beta_slow": "older",
        "truncate": "",
    },
    window_flag="num_ctx",
    serve="FROM ./model.gguf and PARAMETER num_ctx {target} in a Modelfile",
)
