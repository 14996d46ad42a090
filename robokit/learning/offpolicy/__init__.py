"""Shared by off-policy algorithms: replay, agent, loop, options.

May import: robokit.learning.
"""
