"""What every learning algorithm shares: returns, rollouts, optimiser, options.

May import: env and below.
"""
