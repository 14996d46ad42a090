"""What `robokit check` finds in a task: laws that it breaks, and doubts.

May import: robokit.env.
"""
