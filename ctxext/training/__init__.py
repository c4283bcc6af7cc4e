"""Fine-tuning at the target length: loss, LoRA, the loop, and what a killed run needs to go on.

May import `data`, `checkpoints` and what lies below; not `evaluation` or `lab`.
"""
