"""Small decoders from scratch: the laboratory of encodings, and the Llama that ctxext ships.

May import `training`, `evaluation` and what lies below them. `base/` holds the checkpoint that
`ctxext demo --train-base` made.
"""
