"""What a user asks for, as one function each: extend, finetune, merge, push, demo; and recipes.

May import everything but `cli`. Here the rooms below are put together; nothing is printed.
"""
