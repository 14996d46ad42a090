"""What `robokit.train` and the other calls of a notebook do; the commands of `robokit` call the same.

May import: show and below.
"""
