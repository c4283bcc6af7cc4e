"""What serving engines make of the config that a method writes.

May import `methods` and what lies below it; plain data, no torch.
"""
