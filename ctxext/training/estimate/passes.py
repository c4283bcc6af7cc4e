"""One forward and backward pass of a run, as estimates see it."""

from ctxext.runs.recipe.config import FULL, LLAMA_MATRICES, LORA, FinetuneConfig
from ctxext.training.estimate.memory import Pass, auto_loss_chunk


def pass_from(config: FinetuneConfig, *, vocabulary: int, width: int) -> Pass:
    """Describe what one process does at a time.

    Args:
        config: `config.train.seq_length` is set.
        vocabulary: rows of the model's head.
        width: bytes of a number in the weights.
    """
    train, lora = config.train, config.lora
    full, adapted = train.what == FULL, train.what == LORA
    return Pass(
        batch=train.batch_size,
        length=train.seq_length // config.parallel.context,
        width=width,
        targets=LLAMA_MATRICES if full else lora.matrices if adapted else (),
        rank=lora.rank if adapted else 0,
        dropout=lora.dropout > 0,
        train_norms=full or lora.train_norms,
        train_head=full or lora.train_embeddings,
        loss_chunk=loss_chunk(config, vocabulary),
        mlp_tile=config.memory.mlp_tile,
        offload=config.memory.offload == "activations",
        context=config.parallel.context,
        full=full,
    )


def loss_chunk(config: FinetuneConfig, vocabulary: int) -> int:
    """Return how many positions have logits at once; chosen by the vocabulary where it says 0."""
    return config.train.loss_chunk or auto_loss_chunk(vocabulary)
