"""Small decoders from scratch: the byte-level Llama that ctxext ships, and its training rows.

May import `data` and what lies below it; not `evaluation` or `training`. `base/` holds the
checkpoint that `ctxext demo --train-base` made.
"""
