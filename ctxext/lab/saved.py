"""Write a decoder of the laboratory as a checkpoint that every command of ctxext reads."""

from pathlib import Path
from typing import TYPE_CHECKING

from ctxext.lab.byte_llama import write_byte_tokenizer

if TYPE_CHECKING:
    from ctxext.lab.decoder import LabForCausalLM


def save_decoder(model: "LabForCausalLM", folder: Path) -> None:
    """Write weights, configs and the byte-level tokenizer into a folder, made where it is missing.

    Raises:
        ValueError: the model's vocabulary is not the 256 bytes.
    """
    config = model.config
    if config.vocab_size != 256:
        raise ValueError(
            f"a byte-level tokenizer has 256 tokens, and the model {config.vocab_size}"
        )
    model.save_pretrained(folder)
    write_byte_tokenizer(folder, config.max_position_embeddings)
