"""The rules that a task's constants and functions keep, checked before anything runs.

May import: robokit.task.
"""
