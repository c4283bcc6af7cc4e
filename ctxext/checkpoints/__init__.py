"""Checkpoints on disk: detect how they encode position, patch the config, link, copy and merge.

May import `runs` and what lies below it. The only room that writes weights or `config.json`;
torch and transformers are imported only inside the functions that need them.
"""
