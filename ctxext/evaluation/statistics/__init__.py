"""Intervals, bootstrap and where a curve ends. Plain numbers; imports no room."""
