"""Measurements as rows of text: the same for the terminal, for the page and for the model card."""
