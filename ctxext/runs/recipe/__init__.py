"""The sections of a recipe, their bounds, and the reader that makes them of YAML and flags."""
