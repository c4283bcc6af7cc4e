"""What is trained: batches, the loss, adapters or all weights, and their dtypes.

May import `attention` and `estimate`.
"""
