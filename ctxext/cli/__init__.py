"""The command line: each file parses one command, calls one function, and renders its result.

May import everything. The only room that prints or exits; torch and transformers are imported
below, by the functions that need them, so `--help` stays instant.
"""
