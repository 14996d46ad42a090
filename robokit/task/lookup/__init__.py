"""From a name to a task file.

May import: robokit.task.
"""
