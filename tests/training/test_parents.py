"""The policies of runs that a training can start from, and how it goes on itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from slide import OWN, write

from robokit.algos import ppo, sac
from robokit.errors import RunError
from robokit.task.lookup.find import load_task
from robokit.training.loop import train
from robokit.training.run import CONFIG, Done, Run
from robokit.training.setup.build import Built, Setup, build_learner
from robokit.training.setup.init_from import init_learner, open_parent
from robokit.training.setup.provenance import create
from robokit.training.setup.restore import rebuild

SETUP = Setup(seed=3, threads=1)
PPO = ppo.Config(steps=64, num_envs=2, horizon=16, minibatch=16, epochs=1, hidden=(4,))
SAC = sac.Config(num_envs=100, steps=2000, learning_starts=200, batch=8, replay=4000, hidden=(4,), utd=0.1)
CONFIGS: dict[str, Any] = {"ppo": PPO, "sac": SAC}
MORE = OWN.replace('{"slide": sim.qpos}', '{"speed": sim.qvel, "slide": sim.qpos}').replace("-1.0", "-5.0")
ITERATION = {"ppo": 32, "sac": 1000}  # steps
BOTH = pytest.mark.parametrize("algo", CONFIGS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path)


def begun(file: Path, algo: str, parent: Path | None = None, seed: int = 3) -> tuple[Built, Run]:
    """A learner and its run folder, before the first iteration; from a parent, if there is one."""
    setup = replace(SETUP, algo=algo, seed=seed)
    learner = build_learner(load_task(file), setup, CONFIGS[algo])
    opened = None if parent is None else open_parent(parent)
    if opened is not None:
        init_learner(learner, opened)
    return learner, create(file.parent / "runs", learner, setup, opened)


def trained(file: Path, algo: str = "ppo") -> tuple[Built, Run]:
    learner, run = begun(file, algo)
    train(learner, run, ITERATION[algo])
    return learner, run


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_gives_its_best_policy_else_its_last_with_the_critics_of_its_last(file: Path):
    learner, run = trained(file)
    last = open_parent(run.path)
    assert (last.name, last.steps) == (f"slide/{run.path.name}", 32)
    assert same(last.policy, learner.policy.state_dict())
    best = {key: x + 1 for key, x in learner.policy.state_dict().items()}
    run.keep_best(16, best, {})
    parent = open_parent(run.path)
    assert parent.steps == 16 and same(parent.policy, best)
    assert torch.equal(parent.tensors["critic.heads.0.0.weight"], last.tensors["critic.heads.0.0.weight"])
    assert parent.facts["sha256"] != last.facts["sha256"]


@BOTH
def test_a_task_that_was_changed_in_place_starts_from_its_own_run(file: Path, algo: str):
    """What the run's networks saw stands in the run, not in the file."""
    learner, run = trained(file, algo)
    file.write_text(MORE)
    new, child = begun(file, algo, run.path)
    assert new.env.names.obs == {"speed": 1, "slide": 1}
    assert child.config["parent"] == open_parent(run.path).facts
    assert child.config["parent"]["name"] == f"slide/{run.path.name}"
    obs, first = torch.randn(8, 2), torch.ones(8, dtype=torch.bool)
    with torch.no_grad():
        ours, theirs = (
            x.policy(o, torch.zeros(8, 0), first)[0] for x, o in ((new, obs), (learner, obs[:, 1:]))
        )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert not torch.equal(ours, torch.zeros_like(ours))


@BOTH
def test_a_run_with_a_parent_resumes_bit_for_bit_after_the_parent_is_gone(file: Path, algo: str):
    _, parent = trained(file, algo)
    whole, run = begun(file, algo, parent.path, seed=4)
    train(whole, run, 2 * ITERATION[algo])
    part, other = begun(file, algo, parent.path, seed=4)
    train(part, other, ITERATION[algo])
    shutil.rmtree(parent.path)
    again = rebuild(Run.open(other.path))
    train(again, other, 2 * ITERATION[algo])
    assert same(again.state_dict(), whole.state_dict())


def test_off_policy_a_resumed_child_still_acts_with_its_policy_from_the_first_step(file: Path):
    _, parent = trained(file, "sac")
    learner, run = begun(file, "sac", parent.path)
    run.save(learner, Done())
    assert getattr(rebuild(run), "random") is False  # noqa: B009
    assert getattr(rebuild(parent), "random") is True  # noqa: B009


def test_a_child_that_was_killed_before_its_first_checkpoint_starts_from_its_parent_again(file: Path):
    """From the same policy, or not at all; never at random."""
    _, parent = trained(file)
    learner, run = begun(file, "ppo", parent.path)
    assert same(rebuild(run).state_dict(), learner.state_dict())
    parent.keep_best(16, {key: x + 1 for key, x in learner.policy.state_dict().items()}, {})
    words = f"no checkpoint yet, and its parent slide/{parent.path.name} "
    with pytest.raises(RunError, match=f"{words}is another policy now: begin it again with --init-from"):
        rebuild(run)
    shutil.rmtree(parent.path)
    with pytest.raises(RunError, match=f"{words}cannot be opened .*is no run.*: begin it again"):
        rebuild(run)


def test_a_run_that_has_learned_nothing_or_is_of_an_earlier_version_is_refused(file: Path):
    learner, run = begun(file, "ppo")
    with pytest.raises(RunError, match="no checkpoint after its start"):
        open_parent(run.path)
    run.save(learner, Done())
    with pytest.raises(RunError, match="no checkpoint after its start"):
        open_parent(run.path)
    with pytest.raises(RunError, match="is no run"):
        open_parent(file.parent)
    text = json.loads((run.path / CONFIG).read_bytes())
    text["config"].pop("layouts")
    (run.path / CONFIG).write_text(json.dumps(text))
    with pytest.raises(RunError, match=r"by an earlier version of robokit.*: export it \(robokit export "):
        open_parent(run.path)


def test_layouts_that_are_damaged_are_refused(file: Path):
    learner, run = begun(file, "ppo")
    run.config["layouts"]["critic"]["hidden"] = "wide"
    run._write_config()
    train(learner, run, 32)
    with pytest.raises(
        RunError, match=r"config\.json whose layouts are damaged: .*hidden must be of the type array"
    ):
        open_parent(run.path)
