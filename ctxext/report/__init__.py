"""What measurements look like: tables and plots, in one style.

May import `evaluation`, `training` and what lies below; draws, never measures.
"""
