"""A foreign policy's file and what a person tells of it: the ONNX graph, the template of an adoption.

May import: robokit.export and below.
"""
