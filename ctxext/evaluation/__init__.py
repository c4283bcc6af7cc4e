"""Measure whether a checkpoint reads that far: perplexity by length and by position, copying.

May import `data`, `checkpoints` and what lies below; not `training` or `lab`.
"""
