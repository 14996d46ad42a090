"""Files and checkpoints that survive kills, full disks and flipped bits.

May import: errors.
"""
