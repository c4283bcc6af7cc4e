"""Tasks of lm-eval on a checkpoint, at lengths beyond its old window.

May import `reading` and `statistics`.
"""
