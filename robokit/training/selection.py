"""Selection of the policy to export: the best within every limit in validation, by headline, then by return.

The headline is the return unless the task names a metric. With `--limit-rule off` limits are logged but
ignored. A policy whose cost is negative, NaN or above `Limit.largest` is never kept.

    select = Selection(run, learner, times=20)
    train(learner, run, run.steps, validate=select)       # run.best() is the best one so far
    score = load_best(run, learner.policy)

Validation runs the deterministic policy, in the same episodes each time. Training and evaluation draw from
other seeds.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from torch import nn

from robokit.console import say
from robokit.disk.read import EACH, check_types
from robokit.env.env import Env
from robokit.errors import CheckpointError, TaskError
from robokit.evaluation.episodes import run_episodes, torch_actor
from robokit.evaluation.ledger import measured
from robokit.learning.protocols import Learner
from robokit.seeds import seed
from robokit.state import load_weights
from robokit.task.task import RETURN
from robokit.training.run import Done, Run

EPISODES = 32  # per validation
TIMES = 20  # validations of a training under limits
FACTS = {"steps": int, "returns": float, "limits": {EACH: float}, "feasible": bool, "headline": float | None}


@dataclass(frozen=True)
class Score:
    """The result of a validation."""

    steps: int  # of training
    headline: float | None  # mean of the task's headline; None: no episode has a value
    returns: float  # mean return
    limits: dict[str, float]  # the measured value of each limit
    feasible: bool  # within all limits, and no simulation broke

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Score":
        """From a checkpoint's facts; older ones have no headline. Raises KeyError or DataError for others."""
        check_types(facts, FACTS, "the score")
        older = {"headline": facts["returns"]}
        return cls(**{f.name: (older | {**facts})[f.name] for f in fields(cls)})

    @property
    def rank(self) -> tuple[float, float]:
        """The larger, the better. Without a headline it is below any that has one."""
        return -math.inf if self.headline is None else self.headline, self.returns

    @property
    def metrics(self) -> dict[str, float]:
        own = {"validation/return": self.returns, "validation/feasible": float(self.feasible)}
        named = {f"validation/limit/{name}": value for name, value in self.limits.items()}
        return own | named | ({} if self.headline is None else {"validation/headline": self.headline})


class Selection:
    """Validates a policy `times` times, evenly over a run's steps, and keeps the best feasible one."""

    def __init__(self, run: Run, learner: Learner, times: int) -> None:
        self.run, self.learner, self.times = run, learner, times

    def __call__(self, done: Done) -> dict[str, float]:
        """Validate the policy if due at `done`, the run's progress; return the metrics to log, else {}.

        A policy with an invalid cost is not feasible. Raises CheckpointError if the best cannot be written.
        """
        now, before = (
            min(steps, self.run.steps) * self.times // self.run.steps
            for steps in (done.steps, done.steps - self.learner.steps_per_iteration)
        )
        if now == before:
            return {}
        try:
            score = validate(self.learner, done.steps)
        except TaskError as error:  # an invalid cost must not end a training
            say(f"note: not validated, so not kept as the best: the policy of step {done.steps}: {error}")
            return {"validation/feasible": 0.0}
        self.run.notice_best()
        kept = self._kept()
        if score.feasible and (kept is None or score.rank > kept.rank):
            self.run.keep_best(done.steps, self.learner.policy.state_dict(), asdict(score))
        return score.metrics

    def _kept(self) -> Score | None:
        """The score of the best policy so far; None if there is none, or, with a note, if it is damaged."""
        try:
            found = self.run.best()
            return None if found is None else Score.of(found.facts)
        except (CheckpointError, KeyError, ValueError) as error:
            say(f"note: the best policy so far is lost: {error}")
            return None


def validations(run: Run, rule: str) -> int:
    """Number of validations, as set; None: TIMES, but 0 without a headline and without limits in force."""
    times: int | None = run.config["validations"]
    judged = (run.config["limits"] and rule != "off") or headline_of(run) != RETURN
    return (TIMES if judged else 0) if times is None else times


def headline_of(run: Run) -> str:
    """The name of the headline of a run's task; runs of earlier versions have the return."""
    return str(run.config.get("headline", RETURN))


def validate(learner: Learner, steps: int) -> Score:
    """Score of the deterministic policy in EPISODES randomised episodes, the same in every call."""
    env, gamma = learner.env, float(learner.config.gamma)
    threads = getattr(env.sim, "threads", 0)
    options = {"sim": env.sim.engine, "device": env.device, "threads": threads}
    fresh = Env(env.task, EPISODES, seed=seed("validation"), **options)
    ran = run_episodes(fresh, torch_actor(learner.policy), gamma)
    costs = {name: measured(limit.measure, ran.charged[name]) for name, limit in env.task.limits.items()}
    judged = {} if learner.config.limit_rule == "off" else env.task.limits
    held = all(costs[name] <= limit.value for name, limit in judged.items())
    feasible = held and not ran.bad
    valued = ran.headline[~np.isnan(ran.headline)]
    headline = float(valued.mean()) if len(valued) else None
    return Score(steps, headline, float(ran.returns.mean()), costs, feasible)


def load_best(run: Run, policy: nn.Module) -> Score | None:
    """Load a run's best feasible policy into `policy`, and return its Score; None: there is none to load.

    Raises CheckpointError for one that is damaged or does not fit.
    """
    try:
        found = run.best()
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; the last policy instead: robokit export {run.path} --last"
        ) from error
    if found is None:
        return None
    try:
        load_weights(policy, found.tensors)
        return Score.of(found.facts)
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{found.path} does not fit this policy: {error!r}") from error
