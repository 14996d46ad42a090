"""The engine on MuJoCo Warp.

May import: robokit.sim.
"""
