"""How a gradient step is computed: eager or by torch.compile, with how many threads, by which compiler.

Both choices change rounding, and so a training's results. They follow from sizes, never from a measurement:
the same command gives the same results on a busy machine as on an idle one.
"""

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, Literal, NamedTuple

import torch

from robokit.compute.cuda_graph import Cuda, Graphed

CAPABILITY = (7, 0)  # compute capability of the oldest GPU that torch.compile supports
# constants of `choose`, measured with benchmarks/compile.py
COMPILING = 30.0  # s to compile, with an empty cache
COMPILING_UNROLLED = 2.0  # s more for each further control step that a recurrent belief is unrolled over
SAVED = 0.7e-3  # s that a compiled gradient step saves, as it calls fewer kernels
SAVED_UNROLLED = 0.3e-3  # s more for each further control step
SAVED_PRODUCT = 6e-11  # s more for each product of the policy's forward pass
PRODUCTS_PER_THREAD = 8e6  # of the policy's forward pass in a gradient step


class Sizes(NamedTuple):
    """Sizes of a training that decide how its gradient steps are computed."""

    updates: int  # gradient steps of the whole training
    rows: int  # transitions in a gradient step, in one process
    unrolled: int  # control steps that a recurrent belief is unrolled over in a gradient step; 1: no belief


def choose(sizes: Sizes, weights: int, cores: int, device: str) -> tuple[bool, int]:
    """(whether to compile, torch threads of a gradient step) by sizes alone.

    weights: of the policy; weights x rows is the number of products in its forward pass. cores: physics
    threads of this process. device: "cpu" or "cuda".

    Compiling pays back where the gradient steps together save more seconds than it takes:

        updates (SAVED + SAVED_UNROLLED (unrolled - 1) + SAVED_PRODUCT products)
            > COMPILING + COMPILING_UNROLLED (unrolled - 1)

    An eager step of a small network takes 0.6 to 1 ms on one core, mostly in kernel calls; compiling saves
    about 80 % of it, and 30 % for a large network. Threads: one per PRODUCTS_PER_THREAD products of one
    control step (products / unrolled), from 1 to `cores`; with fewer products per thread, waiting takes
    longer than computing. On a GPU always one.
    """
    products, further = weights * sizes.rows, sizes.unrolled - 1
    saved = SAVED + SAVED_UNROLLED * further + SAVED_PRODUCT * products
    pays = sizes.updates * saved > COMPILING + COMPILING_UNROLLED * further
    most = cores if device == "cpu" else 1
    at_once = products / sizes.unrolled
    return pays, max(1, min(most, int(at_once / PRODUCTS_PER_THREAD)))


def compiled(
    function: Callable[..., Any], device: torch.device, cpp_wrapper: bool = False
) -> Callable[..., Any]:
    """`function` compiled to one graph without guards: nothing is checked after its first call.

    Every call must have the shapes, thread count and grad mode of the first. On CUDA the kernels are captured
    in a CUDA graph, and replayed with a single launch: see cuda_graph.py. cpp_wrapper: see Unguarded; not on
    CUDA.
    """
    one = Unguarded(function, cpp_wrapper and device.type == "cpu")
    return Graphed(one, Cuda(device)) if device.type == "cuda" else one


class Unguarded:
    """A function compiled to one graph by its first call; later calls run dynamo's code for it at once.

    torch.compile looks at every call for the code to run. Between two calls of the physics, when little is in
    the caches, this takes longer than a small graph: 50 to 100 us. cpp_wrapper: the calls between the kernels
    in C++ too, which takes 3 s longer to compile and pays where there are dozens, as in a gradient step.
    refused: called with the reason if torch cannot trace the function, which then runs eager; None: the error
    is raised. A compiler that fails, or is ended with its process group, is always an error.
    """

    compiling = 0.0  # s that first calls took since `compile_seconds` was last asked

    def __init__(
        self, function: Callable[..., Any], cpp_wrapper: bool, refused: Callable[[str], None] | None = None
    ) -> None:
        self._own, self._refused = alone(function), refused
        options = {"guard_filter_fn": torch.compiler.skip_all_guards_unsafe, "cpp_wrapper": cpp_wrapper}
        # a precompiled header takes 6 s: it pays for the many kernels, but not for the few wrappers
        options |= {"cpp_cache_precompile_headers": not cpp_wrapper, "cpp.vec_isa_ok": True}
        self._call = self._graph = torch.compile(self._own, fullgraph=True, dynamic=False, options=options)
        self._found: CodeType | None = None

    def __call__(self, *inputs: Any) -> Any:
        if self._call is not self._graph:
            return self._call(*inputs)
        # imported here: takes 1.4 s
        from torch._dynamo.convert_frame import register_bytecode_hook
        from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

        began = time.perf_counter()
        hook = register_bytecode_hook(self._note)
        try:
            outputs = self._graph(*inputs)
        except TorchDynamoException as error:  # before anything ran; the function's own fault is raised below
            if self._refused is None or isinstance(error, BackendCompilerFailed):
                raise
            self._refused(_reason(error))
            self._call = self._own
            return self._own(*inputs)
        finally:
            hook.remove()
        Unguarded.compiling += time.perf_counter() - began
        if self._found is not None:
            self._call = with_code(self._own, self._found)
        return outputs

    def _note(self, code: CodeType, new_code: CodeType) -> None:
        if code is getattr(self._own, "__func__", self._own).__code__:
            self._found = new_code


def compile_seconds() -> float:
    """Seconds that this process has spent compiling since this was last asked."""
    taken, Unguarded.compiling = Unguarded.compiling, 0.0
    return taken


def _reason(error: Exception) -> str:
    """`file.py, line 3, in rewards`, where torch.compile gave up; else the first line of its message."""
    places = re.findall(r'File "(.+)", line (\d+), in (\w+)', str(error))
    if not places:
        return str(error).splitlines()[0]
    file, line, function = places[-1]
    return f"{Path(file).name}, line {line}, in {function}"


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a function or method with its own code object: torch keeps at most 8 graphs for each."""
    return with_code(function, getattr(function, "__func__", function).__code__.replace())


def with_code(function: Callable[..., Any], code: CodeType) -> Callable[..., Any]:
    """A copy of a function or method that runs `code`."""
    plain = getattr(function, "__func__", function)
    own = FunctionType(code, plain.__globals__, None, plain.__defaults__, plain.__closure__)
    return own if plain is function else MethodType(own, function.__self__)  # pyright: ignore


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """A context in which torch uses `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def lacks(device: torch.device, engine: str) -> str:
    """The missing requirements of torch.compile, in words that follow "no"; "" if there are none.

    With engine "mujoco" the task's functions are compiled for the CPU, so CUDA needs a C++ compiler too.
    """
    found = _lacks_cuda(device) if device.type == "cuda" else []
    if (device.type == "cpu" or engine == "mujoco") and not compiler_works("c++"):
        found.append("working C++ compiler ($CXX, else g++)")
    return " and no ".join(found)


def _lacks_cuda(device: torch.device) -> list[str]:
    found = []
    if importlib.util.find_spec("triton") is None:
        found.append("triton")
    if not compiler_works("c"):
        found.append("working C compiler ($CC, else gcc or clang)")
    if torch.cuda.is_available() and torch.cuda.get_device_capability(device) < CAPABILITY:
        found.append(f"GPU of compute capability {'.'.join(map(str, CAPABILITY))}")
    return found


def compiler_works(language: Literal["c", "c++"]) -> bool:
    """Whether torch's C++ compiler ($CXX, else g++) or triton's C compiler ($CC, else gcc or clang) works.

    It must find Python's headers; torch's must also find OpenMP's.
    """
    source = f'#include "{sysconfig.get_path("include")}/Python.h"\n'
    if language == "c++":
        compiler, options = os.environ.get("CXX", "g++"), ["-fopenmp"]
        source += "#include <omp.h>\n"
    else:
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or "gcc"
        options = list[str]()
    command = [compiler, "-fsyntax-only", "-x", language, *options, "-"]
    try:
        done = subprocess.run(command, input=source.encode(), capture_output=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
