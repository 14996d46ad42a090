"""The choice of compilation and threads from a training's sizes; missing compilers are named."""

import os
import shutil

import pytest
import torch
import torch._inductor.config
from torch._dynamo.exc import BackendCompilerFailed

import robokit.compute.compile as compile_module
from robokit.compute.compile import (
    COMPILING,
    COMPILING_UNROLLED,
    PRODUCTS_PER_THREAD,
    SAVED,
    SAVED_PRODUCT,
    SAVED_UNROLLED,
    Sizes,
    Unguarded,
    choose,
    compiler_works,
    lacks,
    torch_threads,
)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_compiling_starts_where_all_gradient_steps_together_save_more_than_it_takes(device: str):
    for unrolled, weights in ((1, 1), (1, 1_000_000), (16, 5_000)):
        further = unrolled - 1
        saved = SAVED + SAVED_UNROLLED * further + SAVED_PRODUCT * 64 * weights
        enough = (COMPILING + COMPILING_UNROLLED * further) / saved
        for factor, compiles in ((0.99, False), (1.01, True)):
            assert choose(Sizes(int(factor * enough), 64, unrolled), weights, 2, device)[0] is compiles


@pytest.mark.parametrize(
    ("share", "unrolled", "cores", "device", "threads"),
    [
        (0.5, 1, 4, "cpu", 1),
        (1.5, 1, 4, "cpu", 1),
        (2.5, 1, 4, "cpu", 2),
        (100.0, 1, 4, "cpu", 4),
        (100.0, 1, 4, "cuda", 1),
        (100.0, 1, 1, "cpu", 1),
        (25.0, 10, 4, "cpu", 2),  # of the rows of one control step after the other
    ],
)
def test_each_thread_has_its_share_of_the_products(
    share: float, unrolled: int, cores: int, device: str, threads: int
):
    sizes = Sizes(1, 100, unrolled)
    assert choose(sizes, int(share * PRODUCTS_PER_THREAD / 100), cores, device) == (False, threads)


def test_a_function_that_cannot_be_traced_runs_eager_and_a_compiler_that_fails_is_an_error():
    def halved(x: torch.Tensor) -> torch.Tensor:
        return x / 2 if x.sum() > 5 else x

    reasons: list[str] = []
    assert Unguarded(halved, False, reasons.append)(torch.full((3,), 4.0)).tolist() == [2.0] * 3
    assert len(reasons) == 1 and reasons[0].startswith("test_compile.py, line ")
    assert reasons[0].endswith(", in halved")
    no_compiler = {"cpp.cxx": (None, "/nowhere/g++"), "force_disable_caches": True}
    with torch._inductor.config.patch(no_compiler), pytest.raises(BackendCompilerFailed):
        Unguarded(lambda x: x + 1, False, reasons.append)(torch.ones(3))
    assert len(reasons) == 1


def test_thread_counts_are_put_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        _ = 1 / (torch.get_num_threads() - before - 1)
    assert torch.get_num_threads() == before


def test_a_compiler_that_is_not_there_or_does_nothing_right_does_not_work(monkeypatch):
    for name in ("/nowhere/g++", "false"):
        monkeypatch.setenv("CXX", name)
        assert not compiler_works("c++")


def test_what_a_compiler_for_cuda_lacks_is_said(monkeypatch: pytest.MonkeyPatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(compile_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("CC", "/nowhere/gcc")
    assert lacks(cuda, "warp") == "triton and no working C compiler ($CC, else gcc or clang)"
    monkeypatch.setattr(compile_module.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("CC", "false")
    assert lacks(cuda, "warp") == "working C compiler ($CC, else gcc or clang)"
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "/nowhere")
    assert lacks(cuda, "warp") == "working C compiler ($CC, else gcc or clang)"


@pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("clang")), reason="no C compiler here")
def test_a_c_compiler_that_is_there_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compile_module.importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("CC", raising=False)
    headers = os.path.join(compile_module.sysconfig.get_path("include"), "Python.h")
    assert (lacks(torch.device("cuda"), "warp") == "") == os.path.exists(headers)


@pytest.mark.parametrize(
    ("device", "engine", "words"),
    [
        ("cpu", "mujoco", "working C++ compiler ($CXX, else g++)"),
        ("cuda", "warp", "triton"),
        ("cuda", "mujoco", "triton and no working C++ compiler ($CXX, else g++)"),  # for the task
    ],
)
def test_what_is_compiled_decides_which_compilers_are_needed(
    monkeypatch: pytest.MonkeyPatch, device: str, engine: str, words: str
):
    monkeypatch.setattr(compile_module, "_lacks_cuda", lambda device: ["triton"])
    monkeypatch.setattr(compile_module, "compiler_works", lambda language: False)
    assert lacks(torch.device(device), engine) == words
    monkeypatch.setattr(compile_module, "_lacks_cuda", lambda device: [])
    monkeypatch.setattr(compile_module, "compiler_works", lambda language: True)
    assert not lacks(torch.device(device), engine)
