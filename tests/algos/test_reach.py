"""PPO brings the arm of benchmarks/reach.py to its goals; the rows are measured there."""

from dataclasses import replace
from pathlib import Path

import pytest

from robokit.env.env import Env
from robokit.evaluation.episodes import run_episodes, torch_actor
from robokit.task.lookup.find import load_task
from robokit.training.setup.build import Setup, build_learner, options

TASK = Path(__file__).parents[2] / "benchmarks" / "two_joints.py"


@pytest.mark.slow
def test_an_arm_whose_targets_move_by_steps_holds_its_goals_after_half_a_minute():
    task = load_task(TASK)
    config = replace(options(task, "ppo"), steps=300_000)
    learner = build_learner(task, Setup(threads=1), config)
    for _ in range(config.steps // learner.steps_per_iteration):
        learner.iterate()
    ran = run_episodes(Env(task, 200, seed=1), torch_actor(learner.policy))
    assert ran.metrics["success"]["held"].mean() >= 0.95
