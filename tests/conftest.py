"""One thread everywhere: fastest for small networks, and sums always have the same order.

A compile cache of its own for each process: inductor's cached code depends on the vector units that were
found when it was written, but its key does not, so a hit must not come from another process.
"""

import functools
import os
import shutil
import sys
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and numpy read them; child processes inherit them
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TORCHINDUCTOR_CACHE_DIR"] = CACHES = tempfile.mkdtemp(prefix="torchinductor_tests_")

import torch

torch.set_num_threads(1)
torch.set_num_interop_threads(1)


def pytest_runtest_teardown() -> None:
    """Once an export has imported onnxscript: it parses the signatures of its 557 functions only once."""
    values = sys.modules.get("onnxscript._internal.values")
    signature = getattr(getattr(values, "TracedOnnxFunction", None), "function_ir", None)
    if isinstance(signature, property) and not hasattr(signature.fget, "cache_info"):
        values.TracedOnnxFunction.function_ir = property(functools.cache(signature.fget))  # pyright: ignore


def pytest_unconfigure() -> None:
    shutil.rmtree(CACHES, ignore_errors=True)
