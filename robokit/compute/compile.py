"""torch.compile, and what it needs."""

import contextlib
import importlib.util
import os
import shutil
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType
from typing import Any

import torch

from robokit.compute.cuda_graph import Cuda, Graphed

CAPABILITY = (7, 0)  # of the oldest GPU that torch's compiler writes kernels for
GAIN = 0.8  # more threads must take less than this share of one thread's time to be chosen


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """`function` as one graph, called with the least overhead: nothing is checked after its first call.

    So it must go on being called with tensors of the same shapes, under the same thread count and grad mode.
    On CUDA the kernels are captured too, and replayed with a single launch: see cuda_graph.py.
    """
    options: dict[str, Any] = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe}
    if device.type == "cpu":
        options["cpp_wrapper"] = True  # the calls between the kernels in C++ too
    one = torch.compile(alone(function), fullgraph=True, dynamic=False, options=options)
    return Graphed(one, Cuda(device)) if device.type == "cuda" else one


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function or method with a code object of its own: torch keeps its graphs there, eight at most."""
    plain = getattr(function, "__func__", function)
    code = plain.__code__.replace()
    own = FunctionType(code, plain.__globals__, None, plain.__defaults__, plain.__closure__)
    return own if plain is function else MethodType(own, function.__self__)  # pyright: ignore


def compiler_works() -> bool:
    """Whether the C++ compiler that torch calls ($CXX, else g++) is there, and what it will include."""
    command = [os.environ.get("CXX", "g++"), "-fsyntax-only", "-fopenmp", "-x", "c++", "-"]
    source = f'#include "{sysconfig.get_path("include")}/Python.h"\n#include <omp.h>\n'
    try:
        done = subprocess.run(command, input=source.encode(), capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, torch computes with `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest(step: Callable[[], object], threads: int, rounds: int = 9) -> tuple[int, float]:
    """One torch thread or `threads`, whichever runs `step` faster, and its median seconds.

    Measured in turns. More threads must win clearly: where another process is busy they lose by a factor
    of ten and more, and then the first round is the last.
    """
    seconds: dict[int, list[float]] = {1: [], threads: []}
    for _ in range(rounds):
        for count, taken in seconds.items():
            with torch_threads(count):
                step()  # the first call after a change wakes the threads
                began = time.perf_counter()
                step()
                taken.append(time.perf_counter() - began)
        if seconds[threads][0] > 4 * seconds[1][0]:
            break
    median = {count: statistics.median(taken) for count, taken in seconds.items()}
    best = threads if median[threads] < GAIN * median[1] else 1
    return best, median[best]


def missing(device: torch.device) -> list[str]:
    """What torch's compiler needs on a CUDA device and does not find, in words."""
    lacks = []
    if importlib.util.find_spec("triton") is None:
        lacks.append("triton")
    if not _c_compiler_works():
        lacks.append("working C compiler ($CC, else gcc or clang)")
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < CAPABILITY:
        lacks.append(f"GPU of compute capability {'.'.join(map(str, CAPABILITY))}")
    return lacks


def seconds(step: Callable[[], object], device: torch.device, rounds: int = 9) -> float:
    """Median duration of `step` on a device, until its last kernel is done."""
    taken = []
    for _ in range(rounds):
        _finish(device)
        began = time.perf_counter()
        step()
        _finish(device)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _c_compiler_works() -> bool:
    """Whether the compiler that triton calls is there, and Python's headers."""
    command = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if command is None:
        return False
    source = f'#include "{sysconfig.get_path("include")}/Python.h"\n'
    options = ["-fsyntax-only", "-x", "c", "-"]
    try:
        done = subprocess.run([command, *options], input=source.encode(), capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
