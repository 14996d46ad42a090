"""Verdicts on limits, and the reports of one file and of several, as text and as JSON.

May import: robokit.evaluation.
"""
