"""Load a checkpoint's model and tokenizer, and check them against what its files say."""
