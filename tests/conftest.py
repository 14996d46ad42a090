"""One thread everywhere: fastest for small networks, and sums always have the same order."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy read them; child processes inherit them
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
torch.set_num_interop_threads(1)
