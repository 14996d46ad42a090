"""One thread everywhere: small networks are fastest so, and sums come out in the same order on every machine."""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy and torch read them; child processes inherit them

import torch

torch.set_num_threads(1)
torch.set_num_interop_threads(1)
