"""A name means the newest run of its task, else a policy of this folder, else a shipped one."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from slide import OWN, write

from robokit.calls.names import locate, path_of
from robokit.disk.folder import read_config
from robokit.errors import OptionError, RunError, TaskError
from robokit.task.lookup.source import known_tasks, shipped_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(run: str, started: str) -> Path:
    """A run folder with its beginning and the name of a checkpoint."""
    Path(run, "checkpoints/000000000016").mkdir(parents=True)
    Path(run, "config.json").write_text(json.dumps({"about": {"started": f"2026-11-{started}:00+00:00"}}))
    return Path(run)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_a_name_is_the_newest_run_then_a_policy_here_then_the_shipped_one(
    capsys: pytest.CaptureFixture[str],
):
    shipped = shipped_folder("policies") / "hopper.onnx"
    assert locate("hopper") == shipped
    assert said(capsys) == f"hopper: the shipped policy {shipped}\n"
    own = Path("policies/hopper.onnx")
    own.parent.mkdir()
    own.touch()
    assert locate("hopper") == own
    assert said(capsys) == "hopper: the policy policies/hopper.onnx\n"
    run = begin("runs/hopper/2026-11-01_08-00-00", "01T08:00")
    assert locate("hopper") == locate(Path("hopper")) == run
    before = ", before the policy policies/hopper.onnx"
    assert said(capsys).startswith(f"hopper: the run runs/hopper/2026-11-01_08-00-00{before}\n")
    own.unlink()
    locate("hopper")
    assert said(capsys).endswith(f"_08-00-00, before the shipped policy {shipped}\n")


def test_the_newest_run_is_the_one_of_latest_else_the_one_that_started_last():
    begin("runs/hopper/a", "01T10:00")
    last = begin("runs/hopper/b", "01T11:00")
    begin("runs/hopper/c", "01T09:00")
    Path("runs/hopper/latest").symlink_to("gone")
    Path("runs/hopper/notes").mkdir()
    assert locate("hopper") == last
    Path("runs/hopper/latest").unlink()
    Path("runs/hopper/latest").symlink_to("c")
    assert locate("hopper") == Path("runs/hopper/c")


def test_two_newest_runs_are_refused_by_name():
    begin("runs/hopper/a", "01T10:00")
    begin("runs/hopper/b", "01T10:00")
    with pytest.raises(RunError, match=r"no link 'latest' to one .*: name runs/hopper/a or runs/hopper/b$"):
        locate("hopper")


def unlearned(run: str, started: str) -> Path:
    """A run that was interrupted before its first iteration."""
    folder = begin(run, started)
    (folder / "checkpoints/000000000016").rename(folder / "checkpoints/000000000000")
    return folder


def test_a_run_that_has_not_learned_is_skipped_and_named(capsys: pytest.CaptureFixture[str]):
    before = unlearned("runs/hopper/a", "01T08:00")
    learned = begin("runs/hopper/b", "01T09:00")
    after = unlearned("runs/hopper/c", "01T10:00")
    skipped = f"skipped {after}: it has no checkpoint after its start\n"
    assert locate("hopper") == learned
    assert said(capsys).startswith(f"{skipped}hopper: the run {learned}, before ")
    Path("runs/hopper/latest").symlink_to("c")
    assert locate("hopper") == learned
    assert said(capsys).count(skipped) == 1
    shutil.rmtree(learned)
    assert locate("hopper") == shipped_folder("policies") / "hopper.onnx"
    assert f"skipped {before}: " in said(capsys)


def test_a_task_file_of_ones_own_does_not_mean_the_shipped_policy():
    own = OWN.replace("Slide", "Hopper")
    write(Path("own"), own).rename("own/hopper.py")
    with pytest.raises(RunError, match=r"'hopper' has no run in ./runs and no policy: robokit train own/hop"):
        locate("own/hopper.py")
    assert locate("hopper") == shipped_folder("policies") / "hopper.onnx"
    assert locate(known_tasks()["hopper"].as_posix()) == locate("hopper")  # the shipped file by its path
    Path("own").rename("tasks")
    with pytest.raises(RunError, match=r"'hopper' has no run in ./runs and no policy: robokit train hopper"):
        locate("hopper")
    Path("policies").symlink_to(shipped_folder("policies"))  # as in a checkout
    with pytest.raises(RunError, match="no policy"):
        locate("hopper")
    write(Path("tasks")).rename("tasks/go2_walk.py")
    with pytest.raises(RunError, match="no policy"):
        locate("go2_walk-Go2WalkSensed")


def test_a_name_means_one_class_as_for_training():
    sensed = begin("runs/go2_walk-Go2WalkSensed/a", "02T10:00")
    whole = begin("runs/go2_walk/a", "01T10:00")
    assert locate("go2_walk") == locate("go2_walk:Go2Walk") == whole
    assert locate("go2_walk:Go2WalkSensed") == locate("go2_walk-Go2WalkSensed") == sensed
    write(Path("own"), OWN.replace("class Slide", "class Glide"))
    run = begin("runs/slide-Glide/a", "01T10:00")
    assert locate("own/slide.py") == locate("own/slide.py:Glide") == run  # the file's only class
    Path("own/slide.py").write_text(OWN.replace("Slide", "A") + "class Other(A):\n    pass\n")
    with pytest.raises(TaskError, match=r"has several tasks, \['A', 'Other'\]: name one, as slide.py:Class"):
        locate("own/slide.py")


def test_a_policy_has_its_own_name_too():
    file = shipped_folder("policies") / "go2_walk-Go2WalkSensed.onnx"
    assert locate("go2_walk:Go2WalkSensed") == locate("go2_walk-Go2WalkSensed") == file


def test_paths_are_taken_as_they_are(capsys: pytest.CaptureFixture[str]):
    begin("hopper", "01T10:00")
    begin("mine", "01T10:00")
    for what in ("x.onnx", "runs/x", "./hopper", "mine"):
        assert locate(what) == path_of(what) == Path(what)
    assert path_of("own/task.py") is path_of("own/task.py:Class") is path_of("walker2d") is None
    assert said(capsys) == ""
    with pytest.raises(OptionError, match="'hopper' is a task, and a run folder here"):
        locate("hopper")
    assert locate(Path("hopper")) == Path("hopper")


def test_where_only_a_run_will_do_a_file_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(RunError, match=r"this takes a run, and .*hopper\.onnx is an exported file"):
        locate("hopper", only_run=True)
    assert said(capsys) == ""
    run = begin("runs/hopper/a", "01T10:00")
    assert locate("hopper", only_run=True) == run


def test_a_name_is_resolved_without_torch():
    code = "import sys; from robokit.calls.names import locate; locate('hopper'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "numpy", "mujoco", "onnxruntime", "tyro"}.isdisjoint(done.stdout.split())


def test_every_shipped_policy_is_that_of_a_known_task():
    names = {re.split("[-:]", path.stem)[0] for path in shipped_folder("policies").glob("*.onnx")}
    assert names <= known_tasks().keys()


@pytest.mark.parametrize("lost", ["missing", "dangling", "text", "folder"])
def test_a_latest_that_a_copy_has_lost_means_the_newest_run(lost: str, capsys: pytest.CaptureFixture[str]):
    begin("runs/hopper/a", "01T10:00")
    newest, latest = begin("runs/hopper/b", "01T11:00"), Path("runs/hopper/latest")
    if lost == "dangling":
        latest.symlink_to("gone")
    elif lost != "missing":
        latest.mkdir() if lost == "folder" else latest.write_text("b")
    with pytest.raises(RunError, match=r"its config\.json is damaged"):  # it has no more
        read_config(latest)
    assert said(capsys) == f"note: {latest} leads to no run; the newest beside it is {newest}\n"
    shutil.rmtree("runs/hopper/a")
    shutil.rmtree(newest)
    with pytest.raises(RunError, match="latest is no run: "):
        read_config(latest)
