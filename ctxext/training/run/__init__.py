"""The run: its loop, checkpoints, stages, failures and checks.

May import every other folder of `training`.
"""
