"""What position is: one file for each way a decoder is told where tokens sit, and its math.

May import nothing from the other rooms, and no torch: what computes with tensors is given them.
"""
