"""Run `python -m ctxext`, as `accelerate launch -m ctxext finetune ...` does."""

from ctxext.cli.main import main

main()
