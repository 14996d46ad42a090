"""Data names a task and never chooses its place."""

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from slide import OWN, write

from robokit.algos.ppo import Config
from robokit.calls.resolve import policy_of
from robokit.cli.command import main
from robokit.errors import TaskError
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import given, known_tasks, shipped_folder
from robokit.task.lookup.trusted import looked_up, trusted
from robokit.training.setup.build import Setup

RUN = Path("runs/slide/2026-11-30_10-00-00")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test in an empty working folder, in which no task was named yet."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    given.clear()
    return tmp_path / "here"


def place(file: str | Path, text: str | None = None) -> str:
    """A task file there, its class named like it, and its absolute path, as a run stores it."""
    path = Path(file)
    text = OWN.replace("Slide", path.stem.capitalize()) if text is None else text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path.resolve())


def folder(run: str | Path) -> Path:
    Path(run).mkdir(parents=True)
    return Path(run)


def test_the_order_is_own_tasks_then_the_path_it_was_trained_from_then_the_shipped_ones():
    run = folder("runs/hopper/a")
    stored = place("hopper.py")
    shipped = known_tasks()["hopper"]
    assert looked_up("hopper", run, str(shipped)) == shipped
    assert looked_up("Hopper", run) == looked_up("hopper:Positions", run, "/nowhere/hopper.py") == shipped
    assert looked_up("hopper", run, stored) == Path(stored)
    own = place("tasks/legs/hopper.py")
    assert looked_up("hopper", run, stored) == Path(own)
    assert looked_up("hopper", run, stored, only_shipped=True) == shipped


@pytest.mark.parametrize(
    ("run", "file"),
    [
        (RUN, "slide.py"),  # train slide.py
        (RUN, "legs/slide.py"),  # train legs/slide.py
        (RUN, "tasks/slide.py"),
        ("policies/slide.onnx", "tasks/slide.py"),
        ("../data/run", "slide.py"),  # --runs ../data
        ("../data/run", "tasks/slide.py"),
    ],
)
def test_where_one_trains_and_measures_nothing_needs_to_be_said(run: str | Path, file: str):
    data = folder(run) if Path(run).suffix != ".onnx" else Path(place(run))
    stored = place(file)
    for name in ("slide", "Slide"):
        assert looked_up(name, data, stored) == Path(stored)


INSIDE = "inside or beside the data's own folder"
OUTSIDE = "outside the working folder"


@pytest.mark.parametrize(
    ("run", "file", "wrong"),
    [
        (".", "slide.py", INSIDE),  # cd downloaded; evaluate .
        (".", "tasks/slide.py", INSIDE),
        ("policy.onnx", "tasks/slide.py", INSIDE),  # cd downloaded; evaluate policy.onnx
        ("policy.onnx", "slide.py", INSIDE),
        ("thing", "thing/slide.py", INSIDE),
        ("thing", "thing/a/slide.py", INSIDE),
        ("thing/policy.onnx", "thing/slide.py", INSIDE),
        ("thing", "slide.py", INSIDE),  # unpacked beside it
        (RUN, RUN / "slide.py", INSIDE),
        (RUN, "runs/slide/slide.py", INSIDE),
        (RUN, "runs/slide.py", INSIDE),
        ("clone/runs/slide/a", "clone/slide.py", INSIDE),  # all of it was downloaded into the folder
        ("tasks/thing", "tasks/slide.py", INSIDE),
        ("..", "slide.py", INSIDE),  # cd downloaded/code; evaluate ..
        ("../policy.onnx", "tasks/slide.py", INSIDE),
        (RUN, "../slide.py", OUTSIDE),
        (RUN, "../other/slide.py", OUTSIDE),
    ],
)
def test_a_file_that_came_with_the_data_is_run_only_if_a_person_says_so(run: str, file: str, wrong: str):
    data = Path(place(run)) if str(run).endswith(".onnx") else Path(run)
    data.mkdir(parents=True, exist_ok=True) if not data.is_file() else None
    stored = place(file)
    with pytest.raises(TaskError) as error:
        looked_up("slide", data, stored)
    assert wrong in str(error.value)
    assert str(error.value).endswith(f"give --task {stored}, or --trust to run what the data names")
    assert looked_up("slide", data, stored, trust=True) == Path(stored)
    load_task(stored)
    assert looked_up("slide", data, stored) == Path(stored)  # a person gave it, in this process


@pytest.mark.parametrize(
    ("title", "file", "text"),
    [
        ("setup", "setup.py", "print(1)"),  # a script of one's own
        ("slide", "deploy.py", OWN),
        ("deploy", "deploy.py", OWN),
        ("deploy:Slide", "slide.py", OWN),
        ("slide", "slide.py", "class Slide:\n    pass"),
        ("slide", "slide.py", "class Slide("),
        ("slide:Other", "slide.py", OWN),
    ],
)
def test_data_cannot_have_another_file_of_ones_own_run(title: str, file: str, text: str):
    run, stored = folder(RUN), place(file, text)
    with pytest.raises(TaskError, match=r"\(no class of that name in it\); give --task"):
        looked_up(title, run, stored)


@pytest.mark.parametrize("text", ["import a\n\nclass Slide(a.Arm): ...", "if 1:\n    class Slide(X): ..."])
def test_a_class_of_any_base_is_the_runs_own(text: str):
    assert looked_up("slide", folder(RUN), stored := place("slide.py", text)) == Path(stored)


def test_links_are_followed_before_a_place_is_judged(here: Path):
    run, outside = folder(RUN), place("../outside/slide.py")
    Path("slide.py").symlink_to(outside)
    with pytest.raises(TaskError, match=OUTSIDE):
        looked_up("slide", run, str(here / "slide.py"))
    inside = place(RUN / "slide.py")
    Path("slide.py").unlink()
    Path("slide.py").symlink_to(inside)
    with pytest.raises(TaskError, match=INSIDE):
        looked_up("slide", run, str(here / "slide.py"))
    Path("tasks").symlink_to(RUN)
    with pytest.raises(TaskError, match=INSIDE):
        looked_up("slide", run)
    Path("tasks").unlink()
    Path("tasks").symlink_to(Path(outside).parent)  # a person's own link
    assert looked_up("slide", run) == Path(outside)


@pytest.mark.parametrize(("link", "to"), [("runs/mine", "clone/run"), ("clone/run", "../outside/run")])
def test_data_lies_where_its_link_is_and_where_that_leads(link: str, to: str):
    folder(to)
    Path(link).parent.mkdir(exist_ok=True)
    Path(link).symlink_to(Path(to).resolve())
    with pytest.raises(TaskError, match=INSIDE):
        looked_up("slide", Path(link), place("clone/slide.py"))


@pytest.mark.parametrize("odd", ["fifo", "folder", "broken"])
def test_what_is_no_file_is_not_there(odd: str, here: Path):
    run, file = folder(RUN), here / "slide.py"
    {"fifo": os.mkfifo, "folder": os.mkdir, "broken": lambda f: f.symlink_to("nowhere")}[odd](file)
    with pytest.raises(TaskError, match=r"'.*slide\.py' \(no task file here\)"):
        looked_up("slide", run, str(file))
    (here / "tasks").mkdir()
    file.rename(here / "tasks/slide.py")
    with pytest.raises(TaskError, match=r"looked up: \./tasks; the shipped tasks; give --task FILE\.py$"):
        looked_up("slide", run)


STORED = [
    None, "", 7, ["a.py"], {"a": 1}, "slide.py", "./slide.py", "runs/../slide.py", "slide.txt",
    "C:\\slide.py", "C:/slide.py", "file:///slide.py", "/" + "a" * 5000 + ".py", "/\0.py",
    "/nowhere/\udcff.py", "/dev/zero", "/a\nb.py",
]  # fmt: skip


TITLES = ["../slide", "/tmp/slide", "slide.py", "", ":", "a" * 9999, "x\ny", "slide\0"]
SAID = [*(("slide", stored) for stored in STORED), *((title, "/a.py") for title in TITLES)]


@pytest.mark.parametrize(("title", "stored"), SAID)
def test_what_data_says_is_one_line_whatever_it_is(title: str, stored: Any):
    place("slide.py")
    for trust in (False, True):
        if trust and title == "slide":
            continue
        with pytest.raises(TaskError) as error:
            looked_up(title, folder("runs/x") if not trust else Path("runs/x"), stored, trust)
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_the_way_out_names_a_file_that_is_there():
    run = folder(RUN)
    with pytest.raises(TaskError, match=r"'/old/slide\.py' \(no task file here\); .*; give --task FILE\.py$"):
        looked_up("slide", run, "/old/slide.py")
    for file in ("legs/slide.py", "slide.py"):
        place(file)
        with pytest.raises(TaskError, match=rf"; give --task {re.escape(file)}$"):
            looked_up("slide", run, "/old/slide.py")


def test_trust_finds_a_file_beside_or_above_the_data():
    run = folder(RUN)
    for file in ("slide.py", "runs/slide.py", RUN / "slide.py"):
        found = place(file)
        assert looked_up("slide:Slide", run, "/old/slide.py", trust=True) == Path(found)


def test_a_surprising_choice_is_said(capsys: pytest.CaptureFixture[str]):
    run, shipped = folder("runs/hopper/a"), known_tasks()["hopper"]
    trusted("hopper", run, f"/other/site-packages/robokit/_tasks/gymnasium_v5/{shipped.name}")
    assert capsys.readouterr().err == ""
    trusted("hopper", run, "/mine/hopper.py")
    said = f"note: {run} was trained from /mine/hopper.py; its task 'hopper' is {shipped} here\n"
    assert capsys.readouterr().err == said
    own = place("hopper.py")
    trusted("hopper", run, own)
    assert capsys.readouterr().err == f"note: 'hopper' is your own {own}, not the shipped task\n"


EVIL = "from pathlib import Path\nPath('ran.txt').touch()\n"


def download(to: Path, task: str, file: str) -> Path:
    """A shipped policy in a folder with a config.json that names a task file in the same folder."""
    to.mkdir(exist_ok=True)
    for suffix in (".onnx", ".onnx.sha256"):
        shutil.copy(shipped_folder("policies") / f"hopper{suffix}", to / f"policy{suffix}")
    about = {"file": str((to / file).resolve()), "versions": {}, "commit": {"robokit": None, "task": None}}
    setup, own = Setup(), {name: value for name, value in asdict(Config()).items() if name != "steps"}
    config = {"task": task, "limits": {}, "options": own, "hashes": {}, **asdict(setup)}
    text = {"schema": 1, "steps": 1, "config": config, "about": about}
    (to / "config.json").write_text(json.dumps(text))
    write(to, EVIL + OWN).rename(to / file)
    return to / "policy.onnx"


@pytest.mark.parametrize("file", ["evil.py", "hopper.py"])
@pytest.mark.parametrize("verb", ["evaluate", "play"])
def test_a_downloaded_folder_runs_no_code(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, verb: str
):
    download(here, file.removesuffix(".py"), file)
    for what in ("policy.onnx", "."):
        assert main([verb, what]) == 2
        said = capsys.readouterr().err
        assert INSIDE in said and said.startswith("robokit: ") and said.count("\n") == 1
    monkeypatch.chdir(here.parent)
    for what in ("here/policy.onnx", "./here", str(here)):
        assert main([verb, what]) == 2
    assert main(["train", "--like", "./here"]) == 2
    assert main(["train", "--resume", "./here"]) == 2
    assert main(["export", "./here"]) == 2
    assert not [*here.parent.rglob("ran.txt")]


def test_a_shipped_name_of_a_downloaded_file_is_the_shipped_task_or_refused(here: Path):
    file = download(here, "hopper", "evil.py")
    (here / "config.json").unlink()
    assert type(policy_of(file)[1]) is type(load_task("hopper"))
    write(here / "tasks", EVIL + OWN.replace("Slide", "Hopper")).rename("tasks/hopper.py")
    with pytest.raises(TaskError, match=INSIDE):
        policy_of(file)
    assert not (here / "ran.txt").exists()


def test_data_means_no_file_of_the_persons_that_is_no_task_of_that_name():
    run = folder(RUN)
    Path("clean_all.py").write_text("from pathlib import Path\nPath('ran.txt').touch()\n")
    own = place("slide.py")
    for stored in (Path("clean_all.py").resolve(), "/proc/self/cwd/clean_all.py", own):
        for title in ("whatever", "clean_all"):
            with pytest.raises(TaskError, match=r"no class of that name in it|no task file here"):
                looked_up(title, run, str(stored))
    assert looked_up("slide", run, own) == Path(own)


def test_trust_is_for_one_call(here: Path):
    file = download(here, "evil", "evil.py")
    (here / "config.json").unlink()
    evil = here / "evil.py"
    load_task(trusted("evil:Slide", file, str(evil), trust=True), person=False)
    assert (here / "ran.txt").exists()
    with pytest.raises(TaskError, match=INSIDE):
        trusted("evil:Slide", file, str(evil))
