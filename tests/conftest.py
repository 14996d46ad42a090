"""One thread everywhere: fastest for small networks, and sums always have the same order.

A compile cache of its own for each process: inductor's cached code depends on the vector units that were
found when it was written, but its key does not, so a hit must not come from another process.
"""

import os
import shutil
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy read them; child processes inherit them
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_CACHE_DIR"] = CACHES = tempfile.mkdtemp(prefix="torchinductor_tests_")

import torch

torch.set_num_threads(1)
torch.set_num_interop_threads(1)


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHES, ignore_errors=True)
