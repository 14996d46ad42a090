"""One thread everywhere: small networks are fastest so, and sums come out in the same order each time."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy read them; child processes inherit them
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch

torch.set_num_threads(1)
torch.set_num_interop_threads(1)
