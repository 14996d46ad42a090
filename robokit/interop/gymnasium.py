"""A task as gymnasium's environment: one simulation, or N in one batch.

    env = gymnasium.make("robokit.interop:robokit/hopper-v0")
    envs = gymnasium.make_vec("robokit.interop:robokit/hopper-v0", num_envs=64)
    mine = gymnasium.make("robokit.interop:robokit/Task-v0", task="my/hop.py:Hop")

Actions are robokit's, in [-1, 1]. Infos name every reward term, cost and metric of the step, `Env.labels`;
what is not counted in it is left out.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from robokit.env.env import Env
from robokit.env.step import Step
from robokit.errors import OptionError, did_you_mean
from robokit.interop.observed import Form, Obs, Observed, array, chosen, env_of, infos_of, named, row
from robokit.show.film import goal_mark
from robokit.sim.render import Camera, window
from robokit.task.lookup.find import title
from robokit.task.task import Task

What = str | Path | type[Task] | Task  # a name, file.py:Class, class or object
MODES, MODES_OF_RESET = ("rgb_array", "human"), ("NextStep", "SameStep")


class TaskEnv(gym.Env[Obs, np.ndarray]):
    """One simulation of a task.

    observations: "flat", "dict" or "goal", as `Observed`; only with "goal" there is `compute_reward`, which
    is Observed.reward. width, height: of frames, pixels. options: of Env. Without a seed the first episode is
    drawn from the system's entropy, as gymnasium's. Raises TaskError for the task, OptionError for an option.
    """

    metadata: dict[str, Any] = {"render_modes": [*MODES], "render_fps": 50}

    def __init__(
        self, task: What | None = None, render_mode: str | None = None, observations: Form = "flat",
        width: int = 480, height: int = 480, seed: int | None = None, **options: Any
    ) -> None:  # fmt: skip
        if render_mode not in (None, *MODES):
            raise OptionError(f"render_mode is None or one of {MODES}, got {render_mode!r}")
        options = {"threads": 1, **options}
        self.inner = env_of(TaskEnv, task, options, seed=seed or 0, autoreset=False)
        self.metadata = {**self.metadata, "render_fps": round(1 / self.inner.task.control_dt)}
        self.render_mode, self._size, self._seed = render_mode, (width, height), seed
        self._seen = Observed(self.inner, observations)
        self.observation_space, self.action_space = self._seen.space, self._seen.actions
        if observations == "goal":  # what has this method is taken for an environment of goals
            self.compute_reward = self._seen.reward
        self._open, self._begun, self._show = ExitStack(), seed is not None, None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict]:
        super().reset(seed=seed)
        if seed is None and not self._begun:
            seed = int(self.np_random.integers(2**31))
        self._begun = True
        _restart(self.inner, seed)
        if self.render_mode == "human":
            self.render()
        return row(self._seen.now(), 0), {}

    def step(self, action: np.ndarray) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        step = self.inner.step(torch.as_tensor(action, dtype=torch.float32)[None])
        ended, now = self._seen.ended(step), self._seen.now()
        if self.render_mode == "human":
            self.render()
        over = bool(step.terminated), bool(step.truncated)
        obs = row(ended if any(over) else now, 0)
        return obs, float(step.reward), *over, infos_of(self.inner, step)[0]

    def render(self) -> Any:
        if self.render_mode is not None and self._show is None:
            sim, human = self.inner.sim, self.render_mode == "human"
            opened = self._open.enter_context(window(sim) if human else Camera(sim, *self._size))
            self._show = opened.frame if isinstance(opened, Camera) else opened
        frame = None if self._show is None else self._show(goal_mark(self.inner))
        return frame if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self._open.close()
        self._show = None


class TaskVectorEnv(gym.vector.VectorEnv[Obs, Any, np.ndarray]):
    """N simulations of a task in one batch, without processes.

    autoreset: "NextStep", gymnasium's default, in which the step after an episode's end only restarts it and
    ignores its action; or "SameStep", with `final_obs` and `final_info` in the infos. observations, seed,
    options: as TaskEnv.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    def __init__(
        self, task: What | None = None, num_envs: int = 1, autoreset: str | AutoresetMode = "NextStep",
        observations: Form = "flat", seed: int | None = None, render_mode: None = None, **options: Any
    ) -> None:  # fmt: skip
        if autoreset not in (*MODES_OF_RESET, *map(AutoresetMode, MODES_OF_RESET)):
            hint = did_you_mean(str(autoreset), MODES_OF_RESET)
            raise OptionError(f"autoreset is one of {MODES_OF_RESET}, got {autoreset!r}{hint}")
        if render_mode is not None:
            raise OptionError(f"a batch is not rendered: gymnasium.make is, got render_mode={render_mode!r}")
        self.autoreset_mode = mode = AutoresetMode(autoreset)  # where TorchRL looks for it
        self.metadata = {**self.metadata, "autoreset_mode": mode}
        same = mode == AutoresetMode.SAME_STEP
        self.inner = env_of(TaskVectorEnv, task, options, num_envs, seed=seed or 0, autoreset=same)
        if self.inner.training and self.inner.task.level and not same:
            rule = "its levels move where an episode ends, once"
            raise OptionError(f"{title(self.inner.task)}: {rule}: training=True needs autoreset='SameStep'")
        self.num_envs, self._begun = num_envs, seed is not None
        self._seen = Observed(self.inner, observations)
        self.single_observation_space, self.single_action_space = self._seen.space, self._seen.actions
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._over = np.zeros(num_envs, bool)  # ended by the last step, and not restarted

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Obs, dict]:
        if not isinstance(seed, int | None):
            raise OptionError(f"a batch has one generator: a seed is one number, for all; got {seed!r}")
        super().reset(seed=seed)
        if seed is None and not self._begun:
            seed = int(self.np_random.integers(2**31))
        self._begun = True
        _restart(self.inner, seed)
        self._over[:] = False
        return self._seen.now(), {}

    def step(self, actions: Any) -> tuple[Obs, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        step = self.inner.step(torch.as_tensor(actions, dtype=torch.float32))
        ended = self._seen.ended(step)
        reward, late = array(step.reward).astype(np.float64), self._over
        terminated, truncated, done = (array(x) for x in (step.terminated, step.truncated, step.done))
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            infos = {"final_obs": _each(ended, done), "_final_obs": done} if done.any() else {}
            if done.any():
                infos |= {"final_info": self._infos(step, done), "_final_info": done}
            return self._seen.now(), reward, terminated, truncated, {**self._infos(step, ~done), **infos}
        if late.any():
            self.inner.restart(torch.from_numpy(late))
            done, terminated, truncated = (x & ~late for x in (done, terminated, truncated))
            reward = np.where(late, 0.0, reward)
        self._over = done
        obs = chosen(done, ended, self._seen.now())
        return obs, reward, terminated, truncated, self._infos(step, ~late)

    def _infos(self, step: Step, rows: np.ndarray) -> dict[str, Any]:
        """{name: (N,), _name: where it is counted} of the chosen rows, as gymnasium's."""
        infos: dict[str, Any] = {}
        names, columns = named(self.inner, step)
        for name, column in zip(names, columns.T, strict=True):
            if (counted := rows & ~np.isnan(column)).any():
                infos |= {name: np.where(counted, column, 0.0), f"_{name}": counted}
        return infos


def _each(obs: Obs, mask: np.ndarray) -> np.ndarray:
    """(N,) objects: the observation of each row in a mask, else None."""
    found = np.full(len(mask), None, object)
    for i in np.flatnonzero(mask).tolist():
        found[i] = row(obs, i)
    return found


def _restart(env: Env, seed: int | None) -> None:
    """Begin all episodes: with a seed as `Env(seed=seed)` begins, else with draws that go on."""
    if seed is None:
        env.restart(torch.ones(env.num_envs, dtype=torch.bool))
    else:
        env.rng.manual_seed(seed)
        env.reset()
