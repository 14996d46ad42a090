"""A task is found by name, path or class, and read before it is imported."""

import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import cart
import pytest

from robokit.calls.names import path_of
from robokit.errors import TaskError
from robokit.task.lookup.files import check_saved
from robokit.task.lookup.find import class_name, find_task, load_task, title
from robokit.task.lookup.source import classes, known_tasks, shipped_folder, summary, title_of
from robokit.task.task import Task, packaged

# -- files ---------------------------------------------------------------------------------------

ONE = """
    from robokit.task.task import Task

    class {name}(Task):
        control_dt = 0.02
"""


def write(folder: Path, text: str, name: str = "stand.py") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(textwrap.dedent(text))
    return folder / name


def several(*names: str) -> str:
    return "\n".join(textwrap.dedent(ONE.format(name=name)) for name in names)


def test_a_task_is_itself_a_class_a_path_or_a_name(tmp_path: Path):
    task = cart.Cart()
    assert load_task(task) is task
    assert type(load_task(cart.Cart)) is cart.Cart
    path = write(tmp_path, several("Anything"))
    for source in (path, str(path), f"{path}:Anything"):
        assert type(load_task(source)).__name__ == "Anything"
    assert type(load_task("hopper")).__name__ == "Hopper"
    assert type(load_task("half_cheetah:HalfCheetah")).__name__ == "HalfCheetah"


def test_of_several_tasks_the_one_with_the_files_name_is_meant(tmp_path: Path):
    path = write(tmp_path, several("Other", "StandUp", "StandUpAgain"), "stand_up.py")
    assert type(load_task(path)).__name__ == "StandUp"
    assert type(load_task(f"{path}:Other")).__name__ == "Other"


def test_the_tasks_of_a_file_are_those_of_its_present_text(tmp_path: Path):
    path = write(tmp_path, several("StandUp"), "stand_up.py")
    classes(path).clear()  # what is kept is not the caller's
    assert [*classes(path)] == ["StandUp"]
    write(tmp_path, several("StandUp", "Other"), "stand_up.py")
    assert [*classes(path)] == ["StandUp", "Other"]
    path.write_text("class (")
    with pytest.raises(TaskError, match="cannot be read"):
        classes(path)


def test_a_task_that_is_only_imported_is_none_of_the_files(tmp_path: Path):
    path = write(tmp_path, "from cart import Cart\nclass Mine(Cart):\n    pass\n")
    assert type(load_task(path)).__name__ == "Mine"


def test_tasks_are_found_two_folders_deep_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    text = "import nowhere\nfrom robokit.tasks.hopper import Hopper\nclass Far(Hopper):\n    'Further.'\n"
    (tmp_path / "tasks/legs/deep").mkdir(parents=True)
    far = write(tmp_path / "tasks/legs", text + "class Nearer(Far):\n    pass\n", "far.py")
    write(tmp_path / "tasks/legs/deep", several("Deep"), "deep.py")
    write(tmp_path / "tasks/legs", "class Helper:\n    pass\n", "helper.py")
    assert known_tasks()["far"] == far and summary(far) == "Further."
    assert known_tasks().keys().isdisjoint({"deep", "helper"})
    write(tmp_path / "tasks", "class Helper:\n    pass\n", "hidden.py")
    with pytest.raises(TaskError, match=r"no task 'hidden'; tasks/hidden\.py has no Task that can be seen"):
        find_task("hidden")
    write(tmp_path / "tasks", several("Far"), "far.py")
    with pytest.raises(TaskError, match=r"task names must be unique: .*far\.py and .*far\.py"):
        known_tasks()


def test_own_tasks_come_before_shipped_ones_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    own = write(tmp_path / "tasks", several("Hopper"), "hopper.py")
    write(tmp_path / "tasks", several("Hidden"), "_hidden.py")
    assert known_tasks()["hopper"] == own
    assert {"ant", "reacher"} < known_tasks().keys()
    assert "_hidden" not in known_tasks()
    assert find_task("hopper:Slow") == (own, "Slow")
    assert "note: 'hopper' is your own" in capsys.readouterr().err


def test_a_shipped_task_is_one_module_whatever_its_folder():
    walk = importlib.import_module("robokit.tasks.go2_walk")
    assert type(load_task("go2_walk")) is walk.Go2Walk
    for name in ("locomotion", "locomotion.go2_walk"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"robokit.tasks.{name}")
    assert not [*shipped_folder().glob("*.py")]  # they could not be imported


SCRIPT = """
from pathlib import Path
with Path("runs.txt").open("a") as file:
    file.write("once ")
from robokit.task.lookup.files import check_saved
from robokit.task.lookup.find import load_task
from robokit.task.task import Task

class Mine(Task):
    pass

for what in (__file__, "mine.py:Mine"):
    assert type(load_task(what)) is Mine
check_saved(Mine())
"""


def test_a_script_that_is_running_is_not_run_again_for_its_class(tmp_path: Path):
    write(tmp_path, SCRIPT, "mine.py")
    subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, check=True)
    assert (tmp_path / "runs.txt").read_text() == "once "


def test_a_class_without_a_file_is_told_from_one_that_can_be_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    text: dict[str, Any] = {"Task": Task}
    exec("class Text(Task):\n    pass", text)  # as in a notebook without __main__.__file__
    typed = type("Typed", (Task,), {"__module__": "__main__"})  # as at a prompt that left a file there
    monkeypatch.setattr(sys.modules["__main__"], "Typed", typed, raising=False)
    local = type("Local", (Task,), {})
    for cls in (text["Text"], typed, local):
        with pytest.raises(TaskError, match=f"{cls.__name__} is a class without a file; save it in a file"):
            check_saved(cls())
    for saved in (cart.Cart(), load_task(write(tmp_path, several("Anything"))), load_task("hopper")):
        check_saved(saved)


@pytest.mark.parametrize(
    ("text", "which", "words"),
    [
        ("class", "", "stand.py does not import: SyntaxError"),
        ("from ..above import x", "", "beyond top-level package; a task finds what is installed and"),
        ("import importlib\nimportlib.import_module('helper')", "", "; importlib does not see what"),
        ("import helper", "", "import, line 1 (helper.py, line 2): ZeroDivisionError"),
        ("open('data.txt')", "", "; it lies beside the task: Path(__file__).parent / 'data.txt'"),
        ("open('none.txt')", "", "No such file or directory: 'none.txt'"),
        ("import nowhere_to_be_found", "", "does not import, line 1: ModuleNotFoundError"),
        ("1 / 0", "", "does not import, line 1: ZeroDivisionError"),
        ("raise SystemExit(0)", "", "does not import, line 1: SystemExit: 0; what only a script does"),
        ("x = 1", "", "stand.py has no class derived from Task at its top level"),
        ("from robokit.tasks import hopper\nA = hopper.Hopper", "", "Task: ['A'] are imported; give their"),
        (
            f"{several('Stand')}\n    def __init__(self, speed): 0",
            "",
            "Stand() raised TypeError: Stand.__init__() missing 1 required positional argument: 'speed'; a",
        ),
        ("from robokit.task.task import Task", "", "has no class derived from Task"),
        (several("Run", "Walk"), "", "has several tasks, ['Run', 'Walk']: name one, as stand.py:Class"),
        (several("Run", "Walk"), ":Walc", "has no task 'Walc'; did you mean 'Walk'? It has ['Run', 'Walk']"),
    ],
)
def test_a_file_without_a_clear_task_is_refused(tmp_path: Path, text: str, which: str, words: str):
    (tmp_path / "helper.py").write_text("\n1 / 0")
    (tmp_path / "data.txt").touch()
    with pytest.raises(TaskError) as error:
        load_task(f"{write(tmp_path, text)}{which}")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("text", "doc"),
    [
        ("class A(Task): pass", ""),
        ("class A(Task):\n ''", ""),
        ("class A(Task):\n '\\n  \\n\\t'", ""),
        ("class A(Task):\n '\\n  Stand.\\n Longer.'", "Stand."),
        ("class A(Task):\n b'bytes'", ""),
        ("class A(Task):\n f'{1}'", ""),
        ("class A(Task):\n '\\x1b[31mred\\ud800 and\\x00'", " [31mred  and"),
        ("class (", "cannot be read: invalid syntax (odd.py, line 1)"),
        (b"x = '\xff'", "cannot be read: "),
        (b"# coding: none\n", "cannot be read: unknown encoding"),
        ("x = 1\0", "cannot be read: source code"),
        ("x = " + "(" * 5000 + ")" * 5000, "cannot be read: "),
        ("x = " + "-" * 100_000 + "1", "cannot be read: "),
        (b" " * 10_000_001, "cannot be read: 10,000,001 bytes, of at most 10,000,000"),
    ],
)
def test_whatever_a_file_holds_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes, doc: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/odd.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = summary(known_tasks()["odd"])
    assert found is not None and found.startswith(doc) and bool(found) == bool(doc)
    if doc.startswith("cannot"):
        with pytest.raises(TaskError, match=r"odd\.py cannot be read: "):
            title_of("tasks/odd.py")


def test_whatever_lies_among_the_tasks_they_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    own = write(tmp_path / "tasks", several("Stand"))
    (tmp_path / "tasks/folder.py").mkdir()
    os.mkfifo(tmp_path / "tasks/pipe.py")
    (tmp_path / "tasks/gone.py").symlink_to("nowhere")
    (tmp_path / "tasks/zero.py").symlink_to("/dev/zero")
    (tmp_path / "tasks/again").symlink_to(".")  # the same file twice is one
    (tmp_path / "tasks/12:30.py").write_text(own.read_text())
    bytes_of = os.fsdecode(b"\xff")
    (tmp_path / f"tasks/{bytes_of}.py").write_text(own.read_text())
    assert {name for name, file in known_tasks().items() if file.is_relative_to(tmp_path)} == {
        "stand",
        bytes_of,
    }
    done = subprocess.run([sys.executable, "-m", "robokit", "tasks"], capture_output=True, check=True)
    assert b"\n\xff " in done.stdout
    for name in ("folder", "pipe", "gone", "zero"):
        for task in (name, f"tasks/{name}.py"):
            with pytest.raises(TaskError, match=r"no task|no file"):
                find_task(task)


@pytest.mark.parametrize(
    "folder", ["12:30", "a b", "new\nline", "-dash", "C:", "a.py:B", "x.py", os.fsdecode(b"\xff")]
)
def test_a_path_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str):
    file = write(tmp_path / folder, several("Stand"))
    monkeypatch.chdir(tmp_path)
    for path in (str(file), f"{folder}/stand.py"):
        for cls in ("", ":Stand"):
            assert find_task(path + cls) == (file, cls[1:] or None)
            assert title_of(path + cls) == "stand" and path_of(path + cls) is None
            assert type(load_task(path + cls)).__name__ == "Stand"
    assert path_of(f"{folder}/runs") == Path(f"{folder}/runs")


def test_a_colon_in_a_files_own_name_is_refused(tmp_path: Path):
    file = write(tmp_path, several("Stand"), "a:b.py")
    with pytest.raises(TaskError, match="a colon parts it from a class: rename the file"):
        load_task(file)


def test_a_task_of_a_notebook_has_the_name_of_its_class():
    cell = type("Cell", (cart.Cart,), {"__module__": "builtins"})
    assert title(cell()) == class_name(cell()) == "Cell"
    assert title(load_task("hopper:Positions")) == "hopper:Positions"


def test_what_is_not_there_is_answered_with_the_nearest(tmp_path: Path):
    with pytest.raises(TaskError, match=r"no task file .*absent\.py"):
        load_task(tmp_path / "absent.py")
    with pytest.raises(TaskError, match="no task 'hoper'; did you mean 'hopper'"):
        load_task("hoper")
    with pytest.raises(TaskError, match="'absent_package', which is not installed"):
        packaged("absent_package", "model.xml")
    with pytest.raises(TaskError, match="dict is not derived from"):
        load_task(dict)  # pyright: ignore[reportArgumentType]
