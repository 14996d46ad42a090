"""The base class of tasks. An author writes a task as one class in one file.

    class Balance(Task):
        model = Path(__file__).with_suffix(".xml")
        control_dt = 0.02  # s
        time_limit = 5.0  # s
        weights = {"upright": 1.0}

        def observe(self, sim):
            return {"slide": sim.sensor("slide"), "hinge": sim.sensor("hinge")}

        def rewards(self, sim, action):
            return {"upright": tolerance(torch.cos(sim.qpos[:, 1]), 0.98, 1.0, margin=0.5)}

A task is pure: it reads `sim` and returns tensors for all its N simulations at once; only Env and Sim write.
N is `sim.num_envs`: `reset` and `randomize` are given the simulations that restart, which on a GPU and at
`env.reset()` are all. Random draws have size N and use the given generator.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Generator, Tensor

from robokit.errors import TaskError
from robokit.limits.limit import Limit as Limit
from robokit.sim.base import Sim
from robokit.sim.model import Source
from robokit.task.action import Action, Ctrl
from robokit.task.command import Command
from robokit.task.goal import SUCCESS, Goal
from robokit.task.level import Level
from robokit.task.mirror import Mirror
from robokit.task.sense import Range, Sense as Sense

Terms = dict[str, Tensor]
RETURN, TERMINATED = "return", "terminated"  # in `headline` and `failure`: no metric, but what they say


class _Headline:
    """The headline of a task that names none: "success" of its goal, else "return"."""

    def __get__(self, task: "Task | None", kind: "type[Task]") -> str:
        return RETURN if (task or kind).goal is None else SUCCESS


class Task:
    """Constants as class attributes, and one short method for each quantity. See docs/tasks.md."""

    model: Source  # MJCF file, or an MjSpec (then a property that builds it)
    control_dt: float  # s between two actions; a whole number of timesteps
    time_limit: float  # s; a longer episode is truncated
    action: Action = Ctrl()  # of all controls, or {pattern of controls: map}
    commands: ClassVar[Mapping[str, Command]] = {}
    goal: Goal | None = None  # a command to come near; its metric "success" is the headline by default
    memory: ClassVar[Mapping[str, int]] = {}  # name -> width: numbers kept for each simulation
    clock: float = 0.0  # Hz; memory "clock" (N, 2): sine and cosine, [0, 0] while all commands are zero
    sensing: ClassVar[Mapping[str, Sense]] = {}  # {observation: errors of its sensor}
    action_delay: Range = 0.0  # s from the policy to the actuators, or a range to draw from in each episode
    mirror: ClassVar[Mapping[str, Mirror]] = {}  # of every observation and "action"; for the option `mirror`
    history: int | Mapping[str, int] = 1  # frames in the `stack` belief, or {term: frames}
    weights: ClassVar[Mapping[str, float]]  # reward = sum of weight * term, per control step
    limits: Mapping[str, Limit] = {}  # {cost: its Limit}, one for each of `costs`
    headline: str = cast(str, _Headline())  # the metric by which policies are compared, larger is better
    failure: tuple[str, ...] = (TERMINATED,)  # boolean metrics: an episode with any of them true has failed
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # {"ppo": {option: value}}
    planner: ClassVar[Mapping[str, Any]] = {}  # {option: value} of `robokit plan`
    level: Level | None = None  # how hard it is for each simulation in training: sim.memory["level"]
    lag: bool = False  # True: derived fields are one timestep old, as after mj_step

    def reset(self, sim: Sim, rng: Generator) -> Terms:
        """Initial state, commands or memory of the simulations that restart, as {"qpos": (sim.num_envs, nq)}.

        Names: of STATE in sim/base.py, commands and memory. What is not returned starts at the model's
        default: qpos0, zeros, a drawn command.
        """
        return {}

    def randomize(self, sim: Sim, rng: Generator) -> Terms:
        """New model fields {"body_mass": (N, nbody)}, nominal times a factor, or memory; at every restart.

        Or a table in its place, `randomize = {"gain": Scale(0.9, 1.1), "payload": Add(-1, 2, at="base")}`.
        On Warp, fields that need mj_setConst (masses, inertias, lengths) change only at `env.reset()`.
        """
        return {}

    def disturb(self, sim: Sim, rng: Generator) -> Terms:
        """State to write before every control step, as pushes {"xfrc_applied": (N, nbody, 6)}; not "ctrl"."""
        return {}

    def observe(self, sim: Sim) -> Terms:
        """{name: (N, d)} exact values, without sensor errors; "action", "clock", commands as in sim.memory.

        The exported file carries "action", "clock" and a Delta's "target"; the robot must supply the others
        that are not hidden.
        """
        raise NotImplementedError

    def privileged(self, sim: Sim) -> Terms:
        """{name: (N, d)} for the critic alone, appended to all terms of `observe`."""
        return {}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        """{name: (N,)} unweighted, one per weight, after `action` (N, A) was applied, clipped to [-1, 1].

        sim.memory["action"] is the action before it.
        """
        raise NotImplementedError

    def reached(self, achieved: Tensor, goal: Tensor) -> Terms:
        """{name: (N,)} more reward terms, of `goal`: from its achieved term and command, (N, d) float32 each.

        Row by row, from nothing else: a goal that was reached later can take the place of the one asked for.
        """
        return {}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        """{name: (N,)} costs, one per limit, from 0 to the limit's `largest`; not part of the reward."""
        return {}

    def terminated(self, sim: Sim) -> Tensor:
        """(N,) bool: the episode ends in a terminal state. Env applies the time limit itself."""
        return torch.zeros(sim.num_envs, dtype=torch.bool, device=sim.device)

    def ended(self, terms: Terms) -> Tensor | None:
        """(N,) bool: `terminated`, told by observed terms {name: (N, d)} alone; None: they do not tell.

        A learned model ends its imagined episodes by it; without it, it learns when they end.
        """
        return None

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        """New memory {name: (N, d)}, written after rewards, costs and metrics, before the next `observe`."""
        return {}

    def metrics(self, sim: Sim) -> Terms:
        """{name: (N,)} to report, float or bool; the one that counts is `headline`. NaN: not counted now."""
        return {}


def uniform(sim: Sim, rng: Generator, width: int, scale: float = 1.0) -> Tensor:
    """Uniform draws (N, width) from [-scale, scale), in the simulation's precision.

    A seed gives both engines the same numbers on the CPU; CUDA's generator draws others.
    """
    draw = torch.empty(sim.num_envs, width, dtype=torch.float64, device=sim.device)
    return draw.uniform_(-scale, scale, generator=rng).to(sim.dtype)


def normal(sim: Sim, rng: Generator, width: int, scale: float = 1.0) -> Tensor:
    """Normal draws (N, width) with mean 0 and standard deviation `scale`; precision as in `uniform`."""
    draw = torch.empty(sim.num_envs, width, dtype=torch.float64, device=sim.device)
    return draw.normal_(0.0, scale, generator=rng).to(sim.dtype)


def packaged(package: str, file: str) -> Path:
    """Path of a data file in an installed package: packaged("gymnasium", "envs/mujoco/assets/hopper.xml").

    TaskError if the package is not installed; whether the file exists is not checked.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TaskError(f"the model lies in the package {package!r}, which is not installed")
    return Path(spec.submodule_search_locations[0]) / file
