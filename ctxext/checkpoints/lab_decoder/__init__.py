"""The laboratory's decoder: one model of transformers for five ways to say where tokens sit.

It stands below `lab`, which trains and compares it, because `checkpoints` has to be able to load
what was trained: `decoder_config` registers it when a config.json asks for it, so that every
command reads such a checkpoint and none imports torch for its sake. May import `encodings`.
"""
