"""The learned model of a task: an ensemble that says how sure it is, the end of an episode, imagined steps.

May import: learning and below.
"""
