"""Several processes: who holds what, rows shared along their length, weights in shares.

May import `model`, `attention` and `estimate`.
"""
