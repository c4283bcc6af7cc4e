"""`python -m ctxext`, for `accelerate launch -m ctxext finetune ...` and the like."""

from ctxext.cli.main import main

main()
