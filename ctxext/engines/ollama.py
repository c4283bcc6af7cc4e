"""How Ollama reads a config, from a GGUF file: its own converter reads less."""

from ctxext.engines._registry import Engine
from ctxext.engines.llama_cpp import ENGINE as LLAMA_CPP

ENGINE = Engine(
    name="Ollama",
    rank=4,
    source="ollama/ollama: convert/convert_llama.go, convert_qwen2.go",
    # It runs the file that llama.cpp's converter writes.
    readings=LLAMA_CPP.readings,
    ignored_keys=LLAMA_CPP.ignored_keys,
    window_flag="num_ctx",
    serve="FROM ./model.gguf and PARAMETER num_ctx {target} in a Modelfile",
)
