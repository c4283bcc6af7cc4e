"""What tests of several rooms share; `from support.command import run_ctxext`."""
