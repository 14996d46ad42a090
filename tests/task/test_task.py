"""What an author writes and how it is found: actions, commands, draws, task files."""

import textwrap
from pathlib import Path
from typing import Any

import cart
import pytest
import torch

from robokit.errors import ModelError, TaskError
from robokit.sim.engines import make_sim
from robokit.task.action import Around, Ctrl, ctrl_limits
from robokit.task.command import Command
from robokit.task.lookup.find import find_task, known_tasks, load_task, summary
from robokit.task.task import Task, normal, packaged, uniform


def sim_of(num_envs: int = 1, unlimited: bool = False):
    spec = cart.spec()
    if unlimited:
        spec.actuators[1].ctrllimited = False
    return make_sim("mujoco", spec, num_envs, {})


# -- actions and commands ------------------------------------------------------------------------


def test_ctrl_maps_minus_one_and_one_onto_the_ends_of_ctrlrange():
    center, half = Ctrl().affine(sim_of())  # ctrlranges [-2, 6] and [-0.5, 0.5]
    assert (center.tolist(), half.tolist()) == ([2.0, 0.0], [4.0, 0.5])


def test_ctrl_needs_every_ctrlrange():
    with pytest.raises(TaskError, match=r"needs a ctrlrange on every actuator; \['turn'\] have none"):
        Ctrl().affine(sim_of(unlimited=True))


@pytest.mark.parametrize("scale", [0.5, (0.5, 0.5)])
def test_around_maps_onto_offsets_from_the_keyframes_ctrl(scale: Any):
    center, half = Around("home", scale).affine(sim_of())
    assert (center.tolist(), half.tolist()) == ([1.0, 0.4], [0.5, 0.5])


@pytest.mark.parametrize(
    "scale", [0.0, -1.0, float("nan"), float("inf"), (1.0,), (1.0, 0.0), (1.0, 1.0, 1.0)]
)
def test_around_refuses_an_impossible_scale(scale: Any):
    with pytest.raises(TaskError, match=r"Around\.scale must be > 0, one or 2 numbers"):
        Around("home", scale).affine(sim_of())


def test_around_needs_a_keyframe_that_there_is():
    with pytest.raises(ModelError, match="no key 'hme' in the model; did you mean 'home'"):
        Around("hme", 1.0).affine(sim_of())


@pytest.mark.parametrize("center", [-2.0, -1.0, 1.0, 2.0])  # of ctrlrange -.5 .5
def test_around_needs_targets_within_ctrlrange(center: float):
    spec = cart.spec()
    spec.keys[0].ctrl = [1.0, center]
    sim = make_sim("mujoco", spec, 1, {})
    targets = f"targets of 'turn', {center - 0.5:g} to {center + 0.5:g}"
    said = (
        f"Around's {targets}, must overlap its ctrlrange, -0.5 to 0.5: does the keyframe 'home' have a ctrl"
    )
    with pytest.raises(TaskError, match=said):
        Around("home", (8.0, 0.5)).affine(sim)
    assert Around("home", (8.0, abs(center))).affine(sim)[0].tolist() == [1.0, center]


def test_an_actuator_without_a_range_is_clipped_nowhere():
    low, high = ctrl_limits(sim_of(unlimited=True))
    assert (low.tolist(), high.tolist()) == ([-2.0, -torch.inf], [6.0, torch.inf])


@pytest.mark.parametrize(
    ("low", "high"),
    [((0.0,), (1.0, 2.0)), ((1.0,), (0.0,)), ((float("nan"),), (1.0,)), ((0.0,), (float("inf"),))],
)
def test_a_command_refuses_impossible_bounds(low: tuple[float, ...], high: tuple[float, ...]):
    with pytest.raises(TaskError, match="low <= high of one length"):
        Command(low, high)


@pytest.mark.parametrize("every", [(0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))])
def test_a_command_refuses_an_impossible_interval(every: tuple[float, float]):
    with pytest.raises(TaskError, match="every must be a range of seconds"):
        Command((0.0,), (1.0,), every)


# -- draws ---------------------------------------------------------------------------------------


def test_draws_have_their_bounds_and_moments_and_come_from_the_generator():
    sim = sim_of(2000)
    flat = uniform(sim, torch.Generator().manual_seed(0), 3, 0.5)
    bell = normal(sim, torch.Generator().manual_seed(0), 3, 0.5)
    assert flat.shape == bell.shape == (2000, 3)
    assert flat.dtype == bell.dtype == sim.qpos.dtype
    assert -0.5 <= flat.min() < -0.49
    assert 0.49 < flat.max() < 0.5
    assert flat.std().item() == pytest.approx(0.5 / 3**0.5, rel=0.03)
    assert bell.std().item() == pytest.approx(0.5, rel=0.03)
    assert torch.equal(flat, uniform(sim, torch.Generator().manual_seed(0), 3, 0.5))
    assert not torch.equal(flat, uniform(sim, torch.Generator().manual_seed(1), 3, 0.5))


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


@pytest.mark.parametrize(
    ("text", "which", "words"),
    [
        ("class", "", "stand.py does not import: SyntaxError"),
        ("import nowhere_to_be_found", "", "does not import, line 1: ModuleNotFoundError"),
        ("1 / 0", "", "does not import, line 1: ZeroDivisionError"),
        ("x = 1", "", "stand.py has no class derived from Task"),
        ("from robokit.task.task import Task", "", "has no class derived from Task"),
        (several("Run", "Walk"), "", "has several tasks, ['Run', 'Walk']: name one, as stand.py:Class"),
        (several("Run", "Walk"), ":Walc", "has no task 'Walc'; did you mean 'Walk'?; it has ['Run', 'Walk']"),
    ],
)
def test_a_file_without_a_clear_task_is_refused(tmp_path: Path, text: str, which: str, words: str):
    with pytest.raises(TaskError) as error:
        load_task(f"{write(tmp_path, text)}{which}")
    assert words in str(error.value)


def test_what_is_not_there_is_answered_with_the_nearest(tmp_path: Path):
    with pytest.raises(TaskError, match=r"no task file .*absent\.py"):
        load_task(tmp_path / "absent.py")
    with pytest.raises(TaskError, match="no task 'hoper'; did you mean 'hopper'"):
        load_task("hoper")
    with pytest.raises(TaskError, match="'absent_package', which is not installed"):
        packaged("absent_package", "model.xml")
    with pytest.raises(TaskError, match="dict is not derived from"):
        load_task(dict)  # pyright: ignore[reportArgumentType]


def test_a_bare_task_has_defaults_for_all_but_what_it_must_define():
    class Bare(Task):
        pass

    task, sim, rng = Bare(), sim_of(3), torch.Generator()
    action = torch.zeros(3, 2)
    assert [task.reset(sim, rng), task.randomize(sim, rng), task.disturb(sim, rng)] == [{}, {}, {}]
    assert [task.privileged(sim), task.costs(sim, action), task.remember(sim, action)] == [{}, {}, {}]
    assert task.metrics(sim) == {}
    assert task.terminated(sim).tolist() == [False] * 3
    assert isinstance(task.action, Ctrl)
