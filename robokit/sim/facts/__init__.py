"""What a model says of its sensors, joints and controls, and what is odd in a start.

May import: robokit.sim.
"""
