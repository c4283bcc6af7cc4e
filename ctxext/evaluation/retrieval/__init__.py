"""Does a model find what stands far back: tasks, haystacks, answers and their scores.

May import `perplexity`, `reading` and `statistics`.
"""
