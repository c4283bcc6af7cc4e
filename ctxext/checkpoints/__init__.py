"""Checkpoints on disk: detect how they encode position, patch the config, link, copy and merge.

May import `methods` and `encodings`. The only room that writes weights or `config.json`;
torch and transformers are imported only inside the functions that need them.
"""
