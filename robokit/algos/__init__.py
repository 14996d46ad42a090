"""Learning algorithms, one file each, to be read beside its paper.

May import: learning and below.
"""
