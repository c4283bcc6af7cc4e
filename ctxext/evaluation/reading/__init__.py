"""Long texts through a model in chunks, and the log-probabilities that it gives them.

May import `statistics`.
"""
