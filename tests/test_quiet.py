"""Nothing phones home: which sockets the commands and the Controller open, and what they write below HOME."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import slide
from test_film import can_draw

CALLS = "trace=%network,openat,creat,mkdir,mkdirat,rename,renameat,renameat2"
STRACE = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", CALLS, "-o"]
TOLD = {"CI", "ORT_RUNNING_UNIT_TESTS", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"}
# the drivers' own caches of compiled shaders
DRAWN = {"MESA_SHADER_CACHE_DISABLE": "true", "__GL_SHADER_DISK_CACHE": "0"}
POLICY = Path(__file__).parent.parent / "policies/hopper.onnx"
BARE = (
    f"import onnxruntime; onnxruntime.InferenceSession({str(POLICY)!r}, providers=['CPUExecutionProvider'])"
)
ROBOT = f"""
import time, numpy
from robokit.controller import Controller
controller = Controller({str(POLICY)!r})
for _ in range(100):  # 2 s
    controller.step({{name: numpy.zeros(size) for name, size in controller.inputs.items()}})
    time.sleep(0.02)
"""


def trace(folder: Path, *arguments: str) -> list[str]:
    """System calls of `python arguments`, run in `folder`, that use the internet or write below its HOME."""
    home, calls = folder / "home", folder / "calls"
    home.mkdir(exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in TOLD}
    environment |= {"HOME": str(home), **DRAWN}
    command = [*STRACE, str(calls), sys.executable, *arguments]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = calls.read_text().splitlines()
    assert any("openat" in line for line in lines)
    below = [line for line in lines if f'"{home}/' in line and not re.search("O_RDONLY| = -1 ", line)]
    return [*(line for line in lines if "AF_INET" in line), *below, *map(str, home.iterdir())]


@pytest.fixture(scope="module")
def _sees(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where strace cannot run, or would have nothing to see."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace (Debian: apt install strace)")
    if subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here (ptrace is not permitted)")
    if not trace(tmp_path_factory.mktemp("bare"), "-c", BARE):
        pytest.skip("this onnxruntime reports nothing by itself: its telemetry is off or gone")


@pytest.mark.slow
@pytest.mark.usefixtures("_sees")
def test_the_controller_opens_no_internet_socket_and_writes_nothing_below_home(tmp_path: Path):
    assert trace(tmp_path, "-c", ROBOT) == []


@pytest.mark.slow
@pytest.mark.usefixtures("_sees")
def test_no_command_opens_an_internet_socket_or_writes_below_home(tmp_path: Path):
    slide.write(tmp_path)
    small = ["--num-envs", "2", "--minibatch", "16", "--hidden", "4", "--compile", "False"]
    film = [["play", "out/slide.onnx", "--task", "slide.py", "-o", "film.mp4"]] if can_draw() else []
    for command in (
        ["train", "slide.py", *small],
        ["export", "runs/slide/latest", "-o", "out", "--episodes", "2"],
        ["evaluate", "runs/slide/latest", "--episodes", "2"],
        ["evaluate", "out/slide.onnx", "--task", "slide.py", "--episodes", "2"],
        *film,
        ["check", "out/slide.onnx"],
    ):
        assert trace(tmp_path, "-m", "robokit", *command) == [], command
