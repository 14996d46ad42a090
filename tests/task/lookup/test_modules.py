"""A task file imports the modules beside it, and nothing else sees them."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from robokit.errors import TaskError
from robokit.task.lookup.files import source_hashes, source_of
from robokit.task.lookup.find import load_task
from robokit.task.lookup.modules import modules_beside
from robokit.task.lookup.source import shipped_folder

TASK = "from robokit.task.task import Task\nclass Own(Task):\n    control_dt = VALUE\n"


def files(folder: Path, **texts: str) -> Path:
    """`a_b="text"` is the file a/b.py in the folder; its own.py."""
    for name, text in texts.items():
        path = folder / f"{name.replace('_', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "own.py"


@pytest.mark.parametrize(
    "line",
    [
        "from terms import VALUE",
        "import terms; VALUE = terms.VALUE",
        "import terms as t; VALUE = t.VALUE",
        "from .terms import VALUE",
        "from . import terms; VALUE = terms.VALUE",
        "from legs.terms import VALUE",  # the folder's own name
        "import legs.terms; VALUE = legs.terms.VALUE",
        "from deep import VALUE",
        "from deep.inner import VALUE",
        "import deep.inner; VALUE = deep.inner.VALUE",
        "from deep import inner; VALUE = inner.VALUE",
        "from bare.plain import VALUE",  # a folder without __init__.py
        "from chain import VALUE",
        "from deep import *",
    ],
)
def test_every_way_to_import_a_module_beside_the_task(tmp_path: Path, line: str):
    names = {"terms": "VALUE = 0.5", "chain": "from terms import VALUE", "bare_plain": "VALUE = 0.5"}
    deep = {"deep___init__": "from .inner import VALUE", "deep_inner": "from terms import VALUE"}
    own = files(tmp_path / "legs", own=f"{line}\n{TASK}", **names, **deep)
    path = [*sys.path]
    assert load_task(own).control_dt == 0.5
    assert sys.path == path and {"terms", "chain", "deep", "bare", "legs"}.isdisjoint(sys.modules)
    run = {
        m.__file__
        for m in [*sys.modules.values()]
        if (getattr(m, "__file__", "") or "").startswith(f"{own.parent}")
    }
    assert run == {str(own), *map(str, modules_beside(own))}


def test_modules_of_one_name_in_two_folders_do_not_mix(tmp_path: Path):
    late = "    def value(self):\n        import terms\n        return terms.VALUE\n"
    tasks = [
        load_task(
            files(tmp_path / name, own=f"from terms import VALUE\n{TASK}{late}", terms=f"VALUE = {value}")
        )
        for name, value in (("a", 1.0), ("b", 2.0))
    ]
    assert [task.control_dt for task in tasks] == [1.0, 2.0]
    assert [task.value() for task in tasks] == [1.0, 2.0]  # pyright: ignore[reportAttributeAccessIssue]
    assert [source_of(type(task)) for task in tasks] == [tmp_path / "a/own.py", tmp_path / "b/own.py"]
    files(tmp_path / "a", terms="VALUE = 30.0")
    assert load_task(tmp_path / "a/own.py").control_dt == 30.0  # run anew, with its modules


def test_a_module_named_like_a_library_replaces_none(tmp_path: Path):
    mine = {"random": "VALUE = 0.5", "torch": "VALUE = 0.5", "colorsys": "VALUE = 0.5"}
    own = files(tmp_path, own=f"import torch, colorsys\ncolorsys.hsv_to_rgb\ntorch.ones\n{TASK}", **mine)
    own.write_text(own.read_text().replace("VALUE", "0.5"))
    assert load_task(own).control_dt == 0.5 and modules_beside(own) == []
    own.write_text(f"from .random import VALUE\n{TASK}")
    assert load_task(own).control_dt == 0.5 and modules_beside(own) == [tmp_path / "random.py"]
    own.write_text(f"from random import VALUE\n{TASK}")
    with pytest.raises(
        TaskError, match=r"line 1: ImportError: .*; random\.py beside it has the name of an ins"
    ):
        load_task(own)
    assert importlib.import_module("random").random() < 1.0


def test_a_failed_import_leaves_nothing_and_names_its_line(tmp_path: Path):
    own = files(tmp_path, own=f"x = 1\nimport terms\n{TASK}", terms="1 / 0")
    with pytest.raises(TaskError, match=r"own\.py does not import, line 2 \(terms\.py, line 1\): Zero"):
        load_task(own)
    own.write_text(f"import absent_terms\n{TASK}")
    with pytest.raises(
        TaskError,
        match=r"No module named 'absent_terms'; a task finds what is installed and what lies beside it",
    ):
        load_task(own)


def test_the_hash_of_a_helper_of_a_helper_counts(tmp_path: Path):
    texts = {"one": "def late():\n    from two import VALUE", "two": "VALUE = 1", "unused": "x = 1"}
    own = files(tmp_path, own=f"import one\n{TASK.replace('VALUE', '0.5')}", **texts)
    cls = type(load_task(own))
    before = source_hashes(cls)
    assert before.keys() == {"own.py", "one.py", "two.py"}
    (tmp_path / "two.py").write_text("VALUE = 2")
    after = source_hashes(cls)
    assert {name for name in before if before[name] != after[name]} == {"two.py"}


def test_what_is_hashed_is_what_runs(tmp_path: Path):
    """Not bytecode that lies beside it, or is as old as the source."""
    own = files(tmp_path, own=f"from terms import VALUE\n{TASK}", terms="VALUE = 1.0")
    load_task(own)
    assert not [*tmp_path.rglob("__pycache__")]


def test_a_task_is_the_same_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = files(tmp_path / "a", own=f"from terms import VALUE\n{TASK}", terms="VALUE = 0.5")
    here = files(tmp_path / "b", terms="VALUE = 0.25").parent
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)  # as in a notebook
    assert importlib.import_module("terms").VALUE == 0.25
    assert load_task(own).control_dt == 0.5
    monkeypatch.delitem(sys.modules, "terms")


def test_a_module_in_the_working_folder_is_no_library(tmp_path: Path):
    files(tmp_path, numpy="print('ran')", onnxruntime="print('ran')")
    file = shipped_folder("policies") / "hopper.onnx"
    command = [sys.executable, "-m", "robokit", "check", str(file)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ok ") and "ran" not in done.stdout.split()
