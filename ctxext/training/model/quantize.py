"""QLoRA: the frozen base in 4 bits while adapters are trained; the merge never sees those bits."""

import importlib.util
from typing import Any

import torch

from ctxext.errors import BadInput


def check_quantize(word: str) -> None:
    """Check that `train.quantize` can be done here.

    Raises:
        BadInput: `4bit` without a CUDA device or without bitsandbytes.
    """
    if word == "none":
        return
    if not torch.cuda.is_available():
        raise BadInput(
            "--quantize 4bit needs a CUDA device, and there is none here",
            "leave it out, or run this on a machine with an NVIDIA GPU",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadInput(
            "--quantize 4bit needs bitsandbytes, which is not installed",
            "pip install bitsandbytes",
        )


def quantization(word: str) -> Any:
    """Configure NF4 with doubled quantisation (QLoRA, arXiv:2305.14314); None for `none`.

    Raises:
        BadInput: as `check_quantize`.
    """
    check_quantize(word)
    if word == "none":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
