"""What is switched on so that a step fits: recomputation, offloading, compiled layers.

May import `parallel`, `model`, `attention` and `estimate`.
"""
