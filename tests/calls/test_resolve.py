"""What a word on the command line, or of a caller in Python, stands for."""

from pathlib import Path

import pytest

from robokit.calls.resolve import policy_of, torch_policy_of
from robokit.cli.command import main
from robokit.errors import OptionError, TaskError
from robokit.export.file import Exported
from robokit.limits.limit import Limit
from robokit.task.lookup.find import load_task
from robokit.task.lookup.source import shipped_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_name_a_path_and_a_text_give_the_same_file_and_task():
    path = shipped_folder("policies") / "hopper.onnx"
    for what in ("hopper", path, str(path)):
        file, task, policy = policy_of(what)
        assert (file.path, type(task).__name__, policy) == (path, "Hopper", None)


def test_a_variant_keeps_its_own_limits_and_the_files_own_task_must_have_the_files(
    monkeypatch: pytest.MonkeyPatch,
):
    _, variant, _ = policy_of("go2_walk", "go2_walk:Go2WalkLimited")
    assert variant.limits == load_task("go2_walk:Go2WalkLimited").limits != {}
    whole = Exported.open(shipped_folder("policies") / "go2_walk.onnx")
    name, limit = next(iter(variant.limits.items()))
    trained = {name: {**vars(limit), "value": 0.5 * limit.value}, "other": vars(Limit(0.1))}
    judged = whole._replace(contract=whole.contract | {"limits": trained})
    monkeypatch.setattr(Exported, "open", lambda path: judged)
    _, variant, _ = policy_of("go2_walk", "go2_walk:Go2WalkLimited")
    assert variant.limits[name].value == 0.5 * limit.value
    with pytest.raises(TaskError, match=r"was trained for .* but go2_walk now has \{\}: train again"):
        policy_of("go2_walk")


def test_files_of_different_variants_are_not_evaluated_together(capsys: pytest.CaptureFixture[str]):
    both = ["evaluate", "go2_walk", "go2_walk:Go2WalkSensed"]
    for task, own in ([], "go2_walk"), (["--task", "go2_walk"], "Go2Walk"):
        assert main([*both, *task]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        rule = f"robokit: runs that are evaluated together must be of one task: go2_walk is of {own!r}, "
        assert said == f"{rule}go2_walk:Go2WalkSensed of 'go2_walk:Go2WalkSensed'"


def test_a_file_holds_no_torch_policy():
    with pytest.raises(OptionError, match=r"--torch goes with a run: .*hopper\.onnx holds no torch policy"):
        torch_policy_of("hopper")
