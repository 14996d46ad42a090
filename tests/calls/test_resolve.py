"""What a word on the command line, or of a caller in Python, stands for."""

from pathlib import Path

import pytest

from robokit.calls.policies import evaluate, play, report_on, subject_of
from robokit.calls.resolve import located, policy_of, torch_policy_of
from robokit.cli.command import main
from robokit.errors import OptionError, RunError, TaskError
from robokit.export.file import Exported
from robokit.limits.limit import Limit
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import known_tasks, shipped_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_a_path_and_a_text_give_the_same_file_and_task():
    path = shipped_folder("policies") / "hopper.onnx"
    for what in ("hopper", path, str(path)):
        file, task, policy, own = policy_of(located(what))
        assert (file.path, type(task).__name__, policy, own) == (path, "Hopper", None, True)


def test_a_variant_keeps_its_own_limits_and_the_files_own_task_must_have_the_files(
    monkeypatch: pytest.MonkeyPatch,
):
    place = located("go2_walk")
    _, variant, _, own = policy_of(place, "go2_walk:Go2WalkLimited")
    assert not own and variant.limits == load_task("go2_walk:Go2WalkLimited").limits != {}
    whole = Exported.open(shipped_folder("policies") / "go2_walk.onnx")
    name, limit = next(iter(variant.limits.items()))
    trained = {name: {**vars(limit), "value": 0.5 * limit.value}, "other": vars(Limit(0.1))}
    judged = whole._replace(contract=whole.contract | {"limits": trained})
    monkeypatch.setattr(Exported, "open", lambda path: judged)
    variant = policy_of(place, "go2_walk:Go2WalkLimited")[1]
    assert variant.limits[name].value == 0.5 * limit.value
    with pytest.raises(TaskError, match=r"was trained for .* but go2_walk now has \{\}: train again"):
        policy_of(place)
    with pytest.raises(TaskError, match="train again"):
        policy_of(place, "go2_walk")  # given, and the file's own


V2 = """
from robokit.limits.limit import Limit
from robokit.tasks.hopper import Hopper as Shipped

class Hopper(Shipped):
    time_limit = 0.1
    limits = {"low": Limit(0.5)}

    def costs(self, sim, action):
        return {"low": (sim.qpos[:, 1] < 1.0).to(sim.qpos.dtype)}
"""


def test_a_class_of_the_same_name_in_another_file_is_a_variant_with_its_own_limits(
    monkeypatch: pytest.MonkeyPatch,
):
    Path("v2").mkdir()
    Path("v2/hopper.py").write_text(V2)
    whole = Exported.open(shipped_folder("policies") / "hopper.onnx")
    limited = whole._replace(contract=whole.contract | {"limits": {"other": vars(Limit(0.1))}})
    monkeypatch.setattr(Exported, "open", lambda path: limited)
    subject = subject_of(located("hopper"), "v2/hopper.py:Hopper")
    assert not subject.own and [*subject.task.limits] == ["low"]
    report = report_on(subject, 2, threads=1)
    assert report.variant == "Hopper of v2/hopper.py, exported for Hopper"
    with pytest.raises(TaskError, match="train again"):
        subject_of(located("hopper"), str(known_tasks()["hopper"]))


def test_the_film_of_a_shipped_file_goes_here_however_it_is_called(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("robokit.calls.policies.write_film", lambda *_: None)
    shipped = shipped_folder("policies") / "hopper.onnx"
    assert play(shipped) == play("hopper") == Path("hopper.mp4")
    Path("policies").symlink_to(shipped.parent)  # as in a checkout
    assert play("policies/hopper.onnx") == Path("hopper.mp4")
    Path("own").mkdir()
    for suffix in (".onnx", ".onnx.sha256"):
        Path(f"own/hopper{suffix}").write_bytes(shipped.with_suffix(suffix).read_bytes())
    assert play("own/hopper.onnx") == Path("own/hopper.mp4")


def test_what_was_located_once_is_not_taken_for_a_name_again():
    assert located("./hopper") == Path("hopper")  # which is no run
    with pytest.raises(RunError, match="hopper is no run"):
        evaluate("./hopper", episodes=2)
    with pytest.raises(RunError, match="hopper is no run"):
        torch_policy_of(located("./hopper"))


def test_files_of_different_variants_are_not_evaluated_together(capsys: pytest.CaptureFixture[str]):
    both = ["evaluate", "go2_walk", "go2_walk:Go2WalkSensed"]
    for task, own in ([], "go2_walk"), (["--task", "go2_walk"], "Go2Walk"):
        assert main([*both, *task]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        rule = f"robokit: runs that are evaluated together must be of one task: go2_walk is of {own!r}, "
        assert said == f"{rule}go2_walk:Go2WalkSensed of 'go2_walk:Go2WalkSensed'"


def test_a_file_holds_no_torch_policy():
    with pytest.raises(OptionError, match=r"--torch goes with a run: .*hopper\.onnx holds no torch policy"):
        torch_policy_of(located("hopper"))
