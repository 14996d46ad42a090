"""The command `robokit`.

May import: everything.
"""
