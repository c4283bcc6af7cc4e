"""A checkpoint as a model and a tokenizer in memory, held to what its files say."""
