"""Physical quantities of a model.

May import: robokit.sim.
"""
