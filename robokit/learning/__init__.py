"""Shared by all learning algorithms: returns, rollouts, optimiser, options.

May import: env and below.
"""
