"""Perplexity by length and by position, and of the tokens that need the far context.

May import `reading` and `statistics`.
"""
