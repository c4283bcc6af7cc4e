"""Drawings, one style: as files, and as SVG that lives inside a page."""
