"""Text in, token ids out: sources, the built-in offline corpus, tokenising, packing.

May import `checkpoints` and what lies below it.
"""
