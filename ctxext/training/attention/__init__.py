"""Attention over documents, windows and blocks, as kernels that transformers' models call.

May import `estimate`.
"""
