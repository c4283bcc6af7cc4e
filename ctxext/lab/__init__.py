"""Small decoders from scratch: the byte-level Llama that ctxext ships, and its training rows; one
decoder for five position encodings (`decoder`, the classes of `checkpoints/lab_decoder`).

May import `data` and what lies below it; not `evaluation` or `training`. `base/` holds the
checkpoint that `ctxext demo --train-base` made.
"""
