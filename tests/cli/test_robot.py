"""On a robot, with numpy and onnxruntime alone, `robokit check FILE.onnx` works; the rest says why not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robokit.cli.verbs import VERBS

POLICY = Path(__file__).parents[2] / "policies/hopper.onnx"
ABSENT = {"torch", "mujoco", "gymnasium", "tyro", "rich", "onnx", "onnxscript", "safetensors", "matplotlib"}
ROBOT = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from robokit.cli.command import main
sys.exit(main(sys.argv[1:]))
"""


def on_robot(*words: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    done = subprocess.run([sys.executable, "-c", ROBOT, *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_a_file_is_checked(tmp_path: Path):
    code, out, err = on_robot("check", str(POLICY))
    assert (code, err) == (0, "")
    assert out.startswith("ok   Hopper for robot hopper, every 0.008 s\nsupply:\n")
    assert on_robot("check", "--json", str(POLICY))[0] == 0
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"x")
    assert on_robot("check", str(bad))[0] == 1
    code, out, err = on_robot("check", str(tmp_path / "none.onnx"))
    assert (code, out, err) == (2, "", f"robokit: no file {tmp_path / 'none.onnx'}\n")
    os.mkfifo(tmp_path / "pipe.onnx")
    code, out, err = on_robot("check", str(tmp_path / "pipe.onnx"))
    assert (code, out, err) == (2, "", f"robokit: {tmp_path / 'pipe.onnx'} is no regular file\n")


@pytest.mark.parametrize("words", [*((verb,) for verb in VERBS), ("check", "hopper"), ("play", "--help")])
def test_every_other_command_says_in_one_line_what_to_install(words: tuple[str, ...]):
    code, out, err = on_robot(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"robokit: {words[0]} needs ")
    assert "which is not installed: pip install robokit; with numpy and onnxruntime alone" in err


def test_the_list_of_commands_is_there_too():
    assert on_robot()[0] == on_robot("--version")[0] == 0
