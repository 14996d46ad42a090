"""What SAC, TD3 and their kin share: replay, agent, loop, options.

May import: robokit.learning.
"""
