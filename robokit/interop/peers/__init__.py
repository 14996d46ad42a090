"""An environment of gymnasium beside a task: parity step for step, and a second opinion on a file.

May import: robokit.interop's `observed`, robokit.evaluation, robokit.export and below.
"""
