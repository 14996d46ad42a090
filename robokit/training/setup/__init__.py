"""What a training is built of: options, a parent's weights, what it came from; and a run built again.

May import: robokit.training.
"""
