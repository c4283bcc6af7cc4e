"""Does a checkpoint really read that far: perplexity by length and by position, and copying.

May import `data`, `checkpoints` and what lies below; not `training` or `lab`.
"""
