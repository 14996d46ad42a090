"""Where and how tensors are computed: processes, devices, compiled graphs, transfers.

May import: errors.
"""
