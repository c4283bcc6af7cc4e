"""What measurements look like, in one style: findings, tables, charts, the page.

A subject (perplexity, retrieval, harness, languages, training) has the same name in each folder.
May import `evaluation`, `training` and what lies below; draws, never measures.
"""
