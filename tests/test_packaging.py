"""What a user installs: the wheel, the command, the shipped tasks, and the one file a robot needs."""

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from shutil import copy, copytree, ignore_patterns

import pytest
from test_film import can_draw

import robokit

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HERE = "import sys; sys.path.insert(0, ''); "  # where PYTHONSAFEPATH, as of make test-versions, leaves it out
LOADED = "import sys; print(sorted(m for m in sys.modules if m.split('.')[0] in {names}))"


def python(code: str, cwd: Path, executable: str | Path = sys.executable) -> str:
    own = executable == sys.executable
    environment = {k: v for k, v in os.environ.items() if own or k != "PYTHONPATH"}
    run = subprocess.run(
        [executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def name_only(requirement: str) -> str:
    """The name a requirement and a pin share: gymnasium[mujoco]>=1.0 -> gymnasium."""
    bare = requirement.split("[")[0].split(">")[0].split("=")[0]
    return bare.strip().lower().replace("_", "-")


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_the_controller_needs_nothing_of_robokit_nor_torch_nor_mujoco(tmp_path: Path):
    names = {"robokit", "torch", "mujoco", "gymnasium", "onnx", "rich", "tyro"}
    loaded = python("import robokit.controller;" + LOADED.format(names=names), tmp_path)
    assert loaded == "['robokit', 'robokit.controller', 'robokit.faces']"


def test_the_controller_runs_as_a_single_copied_file(tmp_path: Path):
    copy(ROOT / "robokit/controller.py", tmp_path)
    names = {"robokit", "controller", "torch", "mujoco"}
    assert python(HERE + "import controller;" + LOADED.format(names=names), tmp_path) == "['controller']"


def test_every_public_name_is_where_the_package_says():
    assert {"Controller", "Env", "Task", "make"} <= set(dir(robokit))
    for name in {*dir(robokit)} - {"Hook"}:  # a type alias
        assert getattr(robokit, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'mak'"):
        robokit.mak  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_a_public_name_hides_no_module():
    modules = {path.stem for path in (ROOT / "robokit").iterdir()}
    assert modules.isdisjoint(dir(robokit))


def test_every_package_is_in_the_wheel():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "robokit").rglob("*.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert packages | {"robokit._policies", "robokit._tasks"} == set(
        PROJECT["tool"]["setuptools"]["packages"]
    )


def test_the_citation_is_of_this_version():
    assert f"version: {robokit.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_requirement_has_a_tested_version():
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all("==" in pin and "+" not in pin for pin in pins)
    wanted = [*PROJECT["project"]["dependencies"]]
    wanted += [name for extra in PROJECT["project"]["optional-dependencies"].values() for name in extra]
    assert {name_only(requirement) for requirement in wanted} <= {"robokit", *map(name_only, pins)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, with a model file deep among the tasks."""
    tree = tmp_path_factory.mktemp("tree")
    for folder in ("robokit", "tasks", "policies"):
        copytree(ROOT / folder, tree / folder, ignore=ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        copy(ROOT / file, tree)
    (tree / "tasks/robots/any").mkdir(parents=True)
    (tree / "tasks/robots/any/scene.xml").write_text("<mujoco/>")
    return tree


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, so that both are whole."""
    out = tmp_path_factory.mktemp("dist")
    build = "from setuptools import build_meta as b; b.build_{kind}({out!r})"
    python(build.format(kind="sdist", out=str(out)), tree)
    [archive] = out.glob("*.tar.gz")
    subprocess.run(["tar", "xzf", archive, "-C", out], check=True)
    python(build.format(kind="wheel", out=str(out)), out / archive.name.removesuffix(".tar.gz"))
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of an environment that has the wheel, and robokit's requirements from this one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install"]
    subprocess.run([*pip, "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    [site] = home.glob("lib/python*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib"))  # no editable install comes along
    return home / "bin"


def command(installed: Path, cwd: Path, *words: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    run = subprocess.run(
        [installed / "robokit", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.medium
def test_the_installed_command_finds_the_shipped_policies_from_an_empty_folder(
    installed: Path, tmp_path: Path
):
    find = "from robokit.calls.names import locate; print(locate('go2_walk'), locate('hopper'))"
    found = [Path(path) for path in python(find, tmp_path, installed / "python").split()]
    assert all(path.is_relative_to(installed.parent) for path in found)
    assert all((path.is_file(), Path(f"{path}.sha256").is_file()) == (True, True) for path in found)
    command(installed, tmp_path, "check", str(found[0]))


@pytest.mark.slow
@pytest.mark.skipif(not can_draw(), reason="needs something to draw with")
def test_the_installed_demo_films_in_an_empty_folder(installed: Path, tmp_path: Path):
    assert command(installed, tmp_path, "demo", "--film", "--seconds", "1") == "go2_walk.mp4\n"
    assert [path.name for path in tmp_path.iterdir()] == ["go2_walk.mp4"]


@pytest.mark.medium
def test_the_wheel_holds_the_library_the_tasks_the_policies_and_nothing_else(wheel: Path, tree: Path):
    names = zipfile.ZipFile(wheel).namelist()
    library = {f"robokit/{path}" for path in files(tree / "robokit")}
    tasks = {f"robokit/_tasks/{path}" for path in files(tree / "tasks")}
    shipped = {path for path in files(tree / "policies") if path.suffix != ".mp4"}
    policies = {f"robokit/_policies/{path}" for path in shipped}
    assert {name for name in names if ".dist-info/" not in name} == library | tasks | policies
    assert "robokit/_policies/go2_walk.onnx.sha256" in names
    assert "robokit/_tasks/robots/any/scene.xml" in names
    assert "robokit/py.typed" in names
    for licence in PROJECT["project"]["license-files"]:
        assert [name for name in names if fnmatch(name, f"*.dist-info/licenses/{licence}")], licence


@pytest.mark.medium
def test_the_installed_command_lists_the_tasks_from_an_empty_folder(installed: Path, tmp_path: Path):
    assert "hopper" in command(installed, tmp_path, "tasks")
    shipped = "from robokit.task.lookup.source import shipped_folder; print(shipped_folder())"
    where = f"import importlib.util as u; print(u.find_spec('tasks')); {shipped}"
    module, folder = python(where, tmp_path, installed / "python").split()
    assert module == "None"
    assert Path(folder).is_relative_to(installed.parent)
    base = "from robokit.tasks.go2_walk import Go2Walk; print(Go2Walk.__base__.__module__)"
    assert python(base, tmp_path, installed / "python") == "robokit.tasks._walk"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_installed_command_trains_in_an_empty_folder(installed: Path, tmp_path: Path):
    command(installed, tmp_path, "train", "hopper", "--steps", "4_096")
    run = tmp_path / "runs/hopper/latest"
    assert all((run / name).is_file() for name in ("config.json", "policy.onnx", "policy.onnx.sha256"))
