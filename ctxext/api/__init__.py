"""What `import ctxext` gives: one public function a file, each with the name of its command.

May import everything but `cli`. Here the rooms below are put together; nothing is printed.
"""
