"""What a step will need: bytes, operations and seconds, from shapes alone.

Imports no other folder of `training`.
"""
