"""The files of a run: how they are read, checked and written, and the recipe that asks for it.

May import `methods`, `engines`, `machine` and what lies below them; nothing that reads a model.
"""
