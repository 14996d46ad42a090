"""What robokit is made of: bounds of its requirements, licences that travel along, locks with hashes."""

import importlib.util
import re
import subprocess
import sys
import venv
from fnmatch import fnmatch
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from shutil import copy
from types import ModuleType
from urllib.error import URLError

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_packaging import PROJECT, ROOT, python

LICENCES = ("LICENSE", "NOTICE", *(f"tasks/robots/{robot}/LICENSE" for robot in ("go2", "panda", "so101")))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


locks = load(ROOT / "tools/lock.py")


def requirements() -> list[Requirement]:
    listed = PROJECT["project"]
    texts = listed["dependencies"], *listed["optional-dependencies"].values()
    return [Requirement(text) for text in chain(*texts) if not text.startswith("robokit[")]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    split = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(pin) for name, pin in split}


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_a_requirement_has_one_lower_bound_that_the_tested_version_keeps(requirement: Requirement):
    [bound] = requirement.specifier
    assert bound.operator == ">="
    assert bound.contains(pins()[canonicalize_name(requirement.name)])


# -- licences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LICENCES)
def test_each_licence_is_there_and_goes_into_the_wheel(path: str):
    assert (ROOT / path).read_text().strip()
    assert any(fnmatch(path, pattern) for pattern in PROJECT["project"]["license-files"])


def test_notice_names_what_comes_from_others():
    notice, go2 = (ROOT / "NOTICE").read_text(), (ROOT / "tasks/robots/go2/LICENSE").read_text()
    for words in (
        "unitree_go2",
        "BSD-3-Clause",
        "tasks/robots/go2/LICENSE",
        "franka_emika_panda",
        "tasks/robots/panda/LICENSE",
        "SO-ARM100",
        "tasks/robots/so101/LICENSE",
        "imageio-ffmpeg",
        "GPL-3.0-or-later",
    ):
        assert words in notice
    owner = 'Copyright (c) 2016-2022 HangZhou YuShu TECHNOLOGY CO.,LTD. ("Unitree Robotics")'
    assert owner in notice and owner in go2
    assert PROJECT["project"]["license"] == "Apache-2.0 AND BSD-3-Clause"


def test_every_robot_that_is_shipped_has_a_licence_beside_its_model():
    robots = [folder for folder in (ROOT / "tasks/robots").iterdir() if folder.is_dir()]
    assert [robot.name for robot in robots if not (robot / "LICENSE").is_file()] == []


def test_what_is_said_of_the_gymnasium_tasks_holds():
    """They read their models from the installed gymnasium: no MJCF of it is here."""
    assert {path.suffix for path in (ROOT / "tasks/gymnasium_v5").iterdir()} <= {".py", ""}


# -- locks -------------------------------------------------------------------------------------------


def test_the_robot_needs_two_packages_and_what_they_require():
    assert {"numpy", "onnxruntime", "protobuf"} <= locks.closure(["numpy", "onnxruntime"]).keys()
    assert locks.closure(["numpy"]) == {"numpy": Version(version("numpy"))}


def test_a_closure_follows_extras_and_leaves_robokit_out():
    assert "imageio" not in locks.closure(["gymnasium"])
    assert {"imageio", "mujoco", "mujoco-core"} <= locks.closure(["gymnasium[mujoco]"]).keys()
    whole = locks.closure(["robokit"])
    assert "robokit" not in whole
    assert {"torch", "tyro", "numpy"} <= whole.keys()
    assert "pytest" not in whole  # of the extra `test`


def test_a_lock_pins_each_package_with_the_hash_of_every_file():
    packages = {"a": Version("1.0"), "torch": Version("2.13.0+cpu")}
    head, _, *rows = locks.lock(packages, lambda name, version: ["2" * 64, "1" * 64, "2" * 64]).splitlines()
    assert "torch 2.13.0+cpu" in head
    each = [f"    --hash=sha256:{'1' * 64} \\", f"    --hash=sha256:{'2' * 64}"]
    assert rows == ["a==1.0 \\", *each, "torch==2.13.0+cpu \\", *each]


def test_a_package_without_a_hash_makes_no_lock():
    with pytest.raises(ValueError, match=r"the index has no a 1\.0"):
        locks.lock({"a": Version("1.0")}, lambda name, version: [])


@pytest.mark.parametrize(
    ("file", "of"),
    [
        ("numpy-2.4.6-cp311-cp311-manylinux_2_28_x86_64.whl", "2.4.6"),
        ("stable_baselines3-2.9.2.tar.gz", "2.9.2"),
        ("old-1.0.win32.exe", None),
    ],
)
def test_a_file_of_the_index_says_its_version(file: str, of: str | None):
    assert locks._version(file) == (of and Version(of))


@pytest.fixture(scope="module")
def robot_lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("dist") / "robot.lock"
    try:
        file.write_text(locks.lock(locks.closure(["numpy", "onnxruntime"]), locks.published))
    except URLError as error:
        pytest.skip(f"needs a package index: {error.reason}")
    return file


def install(lock: Path, place: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The interpreter of a new environment, and how pip ended that was to install the lock there."""
    venv.create(place, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install", "--require-hashes"]
    words = [*pip, "--quiet", "--only-binary", ":all:", "-r", str(lock)]
    return place / "bin/python", subprocess.run(words, text=True, capture_output=True, check=False)


@pytest.mark.slow
def test_the_locked_packages_alone_run_a_shipped_policy(robot_lock: Path, tmp_path: Path):
    interpreter, done = install(robot_lock, tmp_path / "venv")
    assert done.returncode == 0, done.stderr
    for name in ("robokit/controller.py", "policies/hopper.onnx", "policies/hopper.onnx.sha256"):
        copy(ROOT / name, tmp_path)
    step = "policy.step({name: [0.0] * size for name, size in policy.inputs.items()})"
    code = f"from controller import Controller; policy = Controller('hopper.onnx'); print(len({step}))"
    assert python(code, tmp_path, interpreter) == "3"
    found = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
    names = {canonicalize_name(name) for name in python(found, tmp_path, interpreter).split()}
    assert names - {"pip", "setuptools"} == locks.closure(["numpy", "onnxruntime"]).keys()


@pytest.mark.slow
def test_pip_refuses_a_file_that_is_not_the_locked_one(robot_lock: Path, tmp_path: Path):
    forged = tmp_path / "robot.lock"
    forged.write_text(re.sub(r"(?<=sha256:)[0-9a-f]{64}", "0" * 64, robot_lock.read_text()))
    _, refused = install(forged, tmp_path / "venv")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr
