"""A file on another task than its own, judged by its contract; a torch policy of which there is no file."""

from pathlib import Path
from typing import Any

import mujoco
import pytest
import torch

from robokit.env.env import Env, make
from robokit.errors import OptionError, TaskError
from robokit.evaluation.episodes import run_episodes, torch_actor
from robokit.evaluation.measure import evaluate
from robokit.evaluation.reports.across import pool
from robokit.export.card import variant
from robokit.export.file import Exported
from robokit.networks.belief import make_belief
from robokit.networks.policy import Gaussian
from robokit.seeds import seed
from robokit.task.action import Around
from robokit.task.lookup.find import load_task
from robokit.task.task import Task

HOPPER = Path(__file__).parents[2] / "policies/hopper.onnx"


def like_hopper(name: str, **changes: Any) -> type[Task]:
    """A task that does what the hopper does for .1 s, and is not derived from it."""
    own = {key: value for key, value in vars(type(load_task("hopper"))).items() if not key.startswith("__")}
    return type(name, (Task,), own | {"time_limit": 0.104} | changes)


def test_a_task_of_another_class_and_robot_is_a_variant_where_the_contract_fits():
    spec = mujoco.MjSpec.from_file(str(load_task("hopper").model))
    spec.modelname = "kangaroo"
    one, two = like_hopper("One"), like_hopper("Two", model=spec)
    a, b = (evaluate(HOPPER, task, 3, threads=1) for task in (one, two))
    assert a.returns == b.returns
    assert a.variant == "test_variants:One, exported for Hopper"
    assert b.variant == "test_variants:Two, exported for Hopper, on robot 'kangaroo' and not 'hopper'"
    assert f"Hopper, 3 episodes of hopper.onnx, as trained, seed 0\n  on a variant: {b.variant}\n" in b.text()
    with pytest.raises(OptionError, match=r"share one variant: a has 'test_variants:One, .* b has"):
        pool({"a": a, "b": b})


def test_the_task_itself_is_no_variant_and_may_not_have_become_another_robots():
    contract, env = Exported.open(HOPPER).contract, make("hopper", threads=1)
    assert variant(contract, env) is None
    with pytest.raises(TaskError, match="has changed: train again; robot: kangaroo in the file, hopper in"):
        variant(contract | {"robot": "kangaroo"}, env)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "inputs",
            [{"name": "position", "size": 4}],
            "input 'position': 4 in the file, 5 in the task",
        ),
        ("actuators", [{"name": "leg_joint"}], r"actuators: \['leg_joint'\] in the file, \['thigh_joint', "),
        ("control_dt", 0.004, "control_dt: 0.004 in the file, 0.008 in the task"),
    ],
)
def test_what_differs_is_named(key: str, value: Any, words: str):
    contract = Exported.open(HOPPER).contract | {key: value}
    with pytest.raises(TaskError, match=f"exported for Hopper does not fit test_variants:Other; {words}"):
        variant(contract, Env(like_hopper("Other")(), threads=1))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"high": 0.5}, "highest ctrl of 'thigh_joint': 0.5 in the file, 1 in the task"),
        ({"low": None}, "lowest ctrl of 'thigh_joint': none in the file, -1 in the task"),
        ({"default": 0.1}, "ctrl at action 0 of 'thigh_joint': 0.1 in the file, 0 in the task"),
    ],
)
def test_an_action_map_that_differs_is_named_before_an_episode(changes: dict[str, Any], words: str):
    contract = Exported.open(HOPPER).contract
    first, *others = contract["actuators"]
    turned = contract | {"actuators": [first | changes, *others]}
    with pytest.raises(TaskError, match=f"does not fit test_variants:Other; {words}$"):
        variant(turned, Env(like_hopper("Other")(), threads=1))


def test_another_scale_of_actions_is_named_with_the_actuator():
    spec = mujoco.MjSpec.from_file(str(load_task("hopper").model))
    spec.add_key(name="zero", ctrl=[0.0, 0.0, 0.0])
    other = like_hopper("Other", model=spec, action=Around("zero", (1.0, 0.25, 1.0)))
    with pytest.raises(TaskError) as error:
        evaluate(HOPPER, other, 2, threads=1)
    words = str(error.value)
    assert "the file's ctrl of 'leg_joint' differs from Other.action by " in words
    assert words.endswith("its scale there is 0.25, in the file another; give it the file's, or train again")


def test_whoever_knows_better_says_whether_the_task_is_the_files_own():
    contract = Exported.open(HOPPER).contract
    env = Env(like_hopper("Other")(), threads=1)
    assert variant(contract, env, own=True) is None
    assert str(variant(contract, make("hopper", threads=1), own=False)).endswith("exported for Hopper")


def test_actuators_in_another_order_do_not_fit():
    contract = Exported.open(HOPPER).contract
    turned = contract | {"actuators": contract["actuators"][::-1]}
    with pytest.raises(TaskError, match=r"actuators: \['foot_joint', .* in the file, \['thigh_joint', "):
        variant(turned, Env(like_hopper("Other")(), threads=1))


def test_a_torch_policy_without_a_file_is_measured_as_in_training():
    torch.manual_seed(0)
    env = make("inverted_pendulum", 6, seed=seed("evaluation", 0), threads=1)
    policy = Gaussian(env.obs_dim, env.act_dim, make_belief("stack", env.names.obs, 3), hidden=(8,))
    report = evaluate(None, "inverted_pendulum", 6, policy=policy, threads=1)
    assert report.per_episode["return"] == run_episodes(env, torch_actor(policy)).returns.tolist()
    assert (report.task, report.file, report.sha256) == ("InvertedPendulum", None, None)
    assert report.versus_torch is None and report.stochastic is not None
    assert "6 episodes of the torch policy, of no exported file, as trained" in report.text()
    with pytest.raises(OptionError, match="an exported file or a torch policy, got neither"):
        evaluate(None, "inverted_pendulum", 2)
