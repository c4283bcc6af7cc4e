"""How llama.cpp, with its converter to GGUF, reads a config."""

from ctxext.engines._registry import Engine

ENGINE = Engine(
    name="llama.cpp",
    rank=3,
    source="ggml-org/llama.cpp: conversion/base.py, conversion/llama.py, src/llama-context.cpp",
    # GGUF has no word for dynamic; the factors of longrope are written for Phi-3 and MiniCPM alone.
    readings={"dynamic": "lost", "longrope": "ignored"},
    ignored_keys={
        "attention_factor": "",
        "beta_fast": "older",
        "beta_slow": "older",
        "truncate": "",
    },
    window_flag="-c",
    serve="python convert_hf_to_gguf.py {repo} --outfile model.gguf && "
    "llama-server -m model.gguf -c {target}",
    needs_folder=True,
)
