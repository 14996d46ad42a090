"""A policy of other tools adopted: its ONNX graph, what a person tells of it, the new file.

May import: robokit.interop, robokit.export and below.
"""
