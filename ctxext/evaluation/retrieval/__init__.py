"""Measure whether a model finds what stands far back: tasks, haystacks, answers, scores.

May import `perplexity`, `reading` and `statistics`.
"""
