"""One thread everywhere: fastest for small networks, and sums always have the same order."""

import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy read them; child processes inherit them
os.environ["OPENBLAS_NUM_THREADS"] = "1"
if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # inductor's precompiled headers are made without a lock
    caches = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}_{worker}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(caches))

import torch

torch.set_num_threads(1)
torch.set_num_interop_threads(1)
