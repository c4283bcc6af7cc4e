"""Where this process runs: which rank it is, its memory, its GPUs and what they can do.

May import `errors`, `lengths`, `progress` and `masking` only.
"""
