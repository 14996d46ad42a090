"""N simulations of a task, stepped together: control periods, commands, restarts.

    env = robokit.make("hopper", num_envs=64, seed=0)
    obs = env.reset()                                # (N, O)
    step = env.step(torch.zeros(64, env.act_dim))    # actions in [-1, 1], (N, A)

One `step`, in this order: clip and delay the action, map it to ctrl, disturb, physics, find broken
simulations, rewards, costs and metrics (with the memory and commands that the policy observed), remember,
final_obs, redraw commands, restarts, obs. `Step.final_obs` is the observation after the action and before any
restart, so a time-out bootstraps with V(final_obs) and a termination with 0.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robokit.compute.compile import alone
from robokit.compute.transfer import Transfer
from robokit.env.carried import carried_terms
from robokit.env.commands import Commands, left
from robokit.env.delay import Delay
from robokit.env.sensing import Sensors
from robokit.env.step import Step
from robokit.errors import CheckpointError, OptionError, TaskError
from robokit.sim.engines import make_sim
from robokit.sim.model import load
from robokit.state import gather, scatter
from robokit.task.action import ctrl_limits
from robokit.task.columns import CARRIED, columns_of
from robokit.task.lookup.find import load_task
from robokit.task.rules import check_constants, check_finite, read_names, same_names
from robokit.task.task import Task, Terms

OWN_MEMORY = (*CARRIED, "age")  # of Env itself, beside the task's and the commands'


class Env:
    """N simulations of one task. Raises TaskError if the task breaks its contract, before anything runs.

    sim: the engine, "mujoco" (on the CPU) or "warp" (on `device`). device: where returned tensors live. If
    physics runs elsewhere, a step's tensors are copied in one transfer, and only the action's copy back
    blocks. threads: physics threads on the CPU, 0 for all cores. compile: torch.compile the task's functions.
    nominal: no `randomize`, pushes, delays or sensor errors; hidden terms, resets and commands as ever.
    """

    def __init__(
        self,
        task: Task,
        num_envs: int = 1,
        *,
        seed: int = 0,
        sim: str = "mujoco",
        device: str | torch.device = "cpu",
        threads: int = 0,
        compile: bool = False,
        nominal: bool = False,
    ) -> None:
        if not isinstance(num_envs, int) or num_envs < 1:
            raise OptionError(f"num_envs must be a whole number from 1 on, got {num_envs!r}")
        if seed < 0:
            raise OptionError(f"seed must be at least 0, got {seed}")
        check_constants(task)
        self.task, self.num_envs, self.nominal = task, num_envs, nominal
        self.device, self.seed = torch.device(device), seed
        spec = load(task.model)
        options: dict[str, Any] = {"lag": task.lag, "threads": threads}
        options["device"] = str(device) if sim == "warp" else "cpu"
        self.sim = make_sim(sim, spec, num_envs, _memory(task, len(list(spec.actuators))), **options)
        self.act_dim = int(self.sim.model.nu)
        self.carried = carried_terms(task, self.act_dim)
        if not self.act_dim:
            raise TaskError(f"the model of {type(task).__name__} has no actuator")
        self.nstep = _substeps(task.control_dt, self.sim.timestep)
        self.max_age = _periods(task)
        self.action_center, self.action_half = task.action.affine(self.sim)
        self.action_low, self.action_high = ctrl_limits(self.sim)
        self.rng = torch.Generator(self.sim.device).manual_seed(seed)
        self.commands = Commands(task.commands, task.control_dt, self.sim, self.rng)
        self.names = read_names(task, self.sim, seed, nominal)
        kinds = {"reward": self.names.rewards, "cost": self.names.costs, "metric": self.names.metrics}
        self.labels = [f"{kind}/{name}" for kind, names in kinds.items() for name in names] + ["episode/bad"]
        self.columns = columns_of(self.names.obs, task.commands)
        self.obs_dim = sum(self.names.obs.values())
        self.state_dim = sum(self.names.state.values())
        here = num_envs, self.sim.device
        self.sensors = Sensors(task.sensing, self.names.truth, task.control_dt, *here, exact=nominal)
        late = 0.0 if nominal else task.action_delay
        self._action_delay = Delay([late], [self.act_dim], task.control_dt, *here)
        weights = [float(task.weights[k]) for k in self.names.rewards]
        self._weights = torch.tensor(weights, device=self.sim.device)
        uncounted = [0.0 if name in self.names.booleans else torch.nan for name in self.names.metrics]
        self._uncounted = torch.tensor(uncounted, device=self.sim.device)  # metrics of a broken simulation
        wrap: Callable[..., Any] = (
            (lambda f: torch.compile(alone(f), fullgraph=True)) if compile else (lambda f: f)
        )
        self._evaluate, self._observe = wrap(self._evaluate_eager), wrap(self._observe_eager)
        self._pushes = type(task).disturb is not Task.disturb and not nominal
        self._starts = {term.name: self.sim.qpos.new_tensor(term.start) for term in self.carried}
        shared = torch.empty(0, device=self.device).device == self.sim.device
        self._transfer = None if shared else Transfer(self.device)
        self.reset()
        check_finite(task, self.sim)

    # -- one control period ----------------------------------------------------------------------

    def targets(self, action: Tensor) -> Tensor:
        """Actuator targets ctrl (N, A), clamped to ctrlrange, for actions (N, A) in [-1, 1]."""
        return torch.clamp(self.action_center + self.action_half * action, self.action_low, self.action_high)

    def step(self, action: Tensor) -> Step:
        """Advance `control_dt` s with actions (N, A), clipped to [-1, 1]; restart the episodes that end.

        Raises OptionError if `action` is no tensor of this shape.
        """
        sim = self.sim
        if not isinstance(action, Tensor) or action.shape != (self.num_envs, self.act_dim):
            got = tuple(action.shape) if isinstance(action, Tensor) else type(action).__name__
            raise OptionError(
                f"action must be a tensor of shape ({self.num_envs}, {self.act_dim}), got {got}"
            )
        action = action.detach().to(sim.device).clamp(-1.0, 1.0)
        ctrl = self.targets(self._delayed(action))
        if self._pushes:
            for name, value in _copied(self.task.disturb(sim, self.rng)).items():
                sim.written(name).copy_(value)
        sim.step(ctrl, self.nstep)
        bad = sim.bad()
        self.sensors.advance(self.rng)
        (reward, terms, cost, terminated, metrics), seen = self._evaluate(sim, action)
        final_obs, final_state = self._sensed(*seen)
        if broken := self._any(bad):
            terminated = terminated | bad
            reward, terms, cost = (_zero_where(bad, x) for x in (reward, terms, cost))
            metrics = torch.where(bad[:, None], self._uncounted, metrics)
        steps_left = (self.max_age - sim.memory["age"][:, 0]).clamp(min=0)
        truncated = (steps_left == 0) & ~terminated
        steps_left = torch.where(
            bad, 0.0, steps_left
        )  # no cost is charged for steps that a broken simulation lost
        done = terminated | truncated
        moved = self._redraw_commands()
        if restarting := self._any(done):
            self._restart(done)
        new = restarting or moved
        obs, state = self._sensed(*self._observe(sim)) if new else (final_obs, final_state)
        step = Step(
            obs=obs,
            state=state,
            reward=reward,
            cost=cost,
            terminated=terminated,
            truncated=truncated,
            steps_left=steps_left.float(),
            final_obs=final_obs,
            final_state=final_state,
            bad=bad,
            terms=terms,
            metrics=metrics,
        )
        if self._transfer is not None:
            step = Step(**self._transfer(vars(step)))
        if broken:  # after the transfer: the last good observations are on self.device
            step.final_obs = torch.where(step.bad[:, None], self.obs, step.final_obs)
            step.final_state = torch.where(step.bad[:, None], self.state, step.final_state)
        self.obs, self.state = step.obs, step.state
        return step

    def reset(self, stagger: bool = False) -> Tensor:
        """Restart all simulations; obs (N, O). stagger: step counts start at random, to spread time-outs."""
        age = torch.rand(self.num_envs, 1, generator=self.rng, device=self.sim.device) * self.max_age
        self._restart(None)
        if stagger:
            self.sim.memory["age"].copy_(age.floor())
        self.sensors.draw(self.rng)
        self.obs, self.state = (x.to(self.device) for x in self._sensed(*self._observe(self.sim)))
        return self.obs

    def terms(self) -> dict[str, Tensor]:
        """{name: (N, d)} of the last returned obs, with its sensor errors and without hidden terms."""
        return self.split(self.obs)

    def split(self, obs: Tensor) -> dict[str, Tensor]:
        """{name: (..., d)} of an observation (..., O), as views."""
        return dict(zip(self.names.obs, obs.split(list(self.names.obs.values()), -1), strict=True))

    def hold(self, commands: Mapping[str, Sequence[float]]) -> None:
        """Keep commands at {name: d numbers} from the next restart or redraw on: see `Commands.hold`."""
        self.commands.hold(commands)

    def _evaluate_eager(self, sim: Any, action: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, Tensor]]:
        """(reward, weighted terms, cost, terminated, metrics); (truth, state), read after writing memory."""
        task, names = self.task, self.names
        terms = _columns(task.rewards(sim, action), names.rewards, sim, "rewards") * self._weights
        reward = terms.sum(-1)
        cost = _columns(task.costs(sim, action), names.costs, sim, "costs")
        metrics = _columns(task.metrics(sim), names.metrics, sim, "metrics")
        results = reward, terms, cost, task.terminated(sim), metrics
        self._remember(task.remember(sim, action), action)
        return results, self._observe_eager(sim)

    def _observe_eager(self, sim: Any) -> tuple[Tensor, Tensor]:
        """Exact values of all observation terms, hidden ones too; state (N, S): those and the privileged."""
        obs = _concatenate(self.task.observe(sim), self.names.truth, sim, "observe")
        if not self.names.privileged:
            return obs, obs
        more = _concatenate(self.task.privileged(sim), self.names.privileged, sim, "privileged")
        return obs, torch.cat((obs, more), -1)

    def _sensed(self, truth: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.sensors.read(truth), state

    def _delayed(self, action: Tensor) -> Tensor:
        """Shift the delay line; the mean (N, A) of the delayed actions over the coming control period."""
        if not self._action_delay.depth:
            return action
        self._action_delay.advance()
        return self._action_delay.read(action)

    def _any(self, mask: Tensor) -> bool:
        """Whether any is True. On a GPU always True, because reading the mask would block the host."""
        return self.sim.device.type != "cpu" or bool(mask.any())

    def _remember(self, memory: Terms, action: Tensor) -> None:
        """Write the task's new memory, add 1 to every age, advance the carried terms."""
        same_names(memory, self.names.memory, "remember")
        # copied before any is written: values may be views of memory; a product, as inductor drops clones
        taken = {name: value.to(self.sim.memory[name].dtype) * 1.0 for name, value in memory.items()}
        for name, value in taken.items():
            self.sim.memory[name].copy_(value)
        self.sim.memory["age"].add_(1)
        self._carry({term.name: term.next(self.sim.memory[term.name], action) for term in self.carried})

    def _carry(self, values: Terms) -> None:
        """Write carried terms {name: (N, size)} to memory, after their `now` with the current commands."""
        memory = self.sim.memory
        commands = [memory[name] for name in self.task.commands]
        for term in self.carried:
            if term.name in values:
                memory[term.name].copy_(term.now(values[term.name], commands))

    # -- restarts and commands -------------------------------------------------------------------

    def _restart(self, mask: Tensor | None) -> None:
        """Begin new episodes where mask (N,) bool, None for all; draws are made for all N either way."""
        values = {**self.commands.draw(), **self.task.reset(self.sim, self.rng)}
        if not self.nominal:
            values |= self.task.randomize(self.sim, self.rng)
        values |= self.commands.held
        commands = [values[name] for name in self.task.commands]
        for term in self.carried:
            if any(term.start):  # a restart zeroes memory
                start = self._starts[term.name].expand(self.num_envs, -1)
                values[term.name] = term.now(start, commands)
        self.sim.reset(mask, _copied(values))
        begun = torch.ones(self.num_envs, dtype=torch.bool, device=self.sim.device) if mask is None else mask
        self.sensors.restart(begun, self.rng)
        if self._action_delay.depth:
            self._action_delay.draw(begun, self.rng)
            self._action_delay.fill(begun, 0.0)

    def _redraw_commands(self) -> bool:
        """Count down one control period, redraw commands whose time is up; whether any may have changed."""
        due = self.commands.due()
        if not due or not self._any(torch.stack(list(due.values()))):
            return False
        self.commands.redraw(due)
        self._carry({t.name: self.sim.memory[t.name] for t in self.carried if t.follows_commands})
        return True

    # -- save and continue -----------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """A flat dict of copies, all that a bit-equal continuation needs except the values of `hold`."""
        return gather(self._parts())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()` of an Env of the same task, num_envs and engine.

        Checks only the shape of obs (CheckpointError).
        """
        if state["obs"].shape != self.obs.shape:
            expected, got = tuple(self.obs.shape), tuple(state["obs"].shape)
            raise CheckpointError(f"the checkpoint holds observations {got}, this environment has {expected}")
        scatter(self._parts(), state)

    def _parts(self) -> dict[str, Any]:
        own = {"rng": self.rng, "obs": self.obs, "state": self.state}
        return {"sim": self.sim, "sensors": self.sensors, "action_delay": self._action_delay, **own}


def make(task: str | Path | type[Task] | Task, num_envs: int = 1, **options: Any) -> Env:
    """An Env of a task given by name ("hopper"), path ("file.py:Class"), class or object; options: of Env."""
    return Env(load_task(task), num_envs, **options)


def _memory(task: Task, act_dim: int) -> dict[str, int]:
    """Name -> width of all memory: carried terms, age, commands and their countdowns, and the task's own."""
    widths = {**{term.name: term.size for term in carried_terms(task, act_dim)}, "age": 1}
    for name, command in task.commands.items():
        widths[name] = len(command.low)
        if command.every is not None:
            widths[left(name)] = 1
    taken = [name for name in task.memory if name in widths] + [n for n in task.commands if n in OWN_MEMORY]
    if taken:
        raise TaskError(f"memory and commands may not be called {taken}: these names are taken")
    return {**widths, **task.memory}


def _substeps(control_dt: float, timestep: float) -> int:
    nstep = round(control_dt / timestep)
    if nstep < 1 or abs(nstep * timestep - control_dt) > 1e-6 * control_dt:
        raise TaskError(f"control_dt ({control_dt} s) must be a multiple of the timestep ({timestep} s)")
    return nstep


def _periods(task: Task) -> int:
    if not task.time_limit >= task.control_dt:
        raise TaskError(f"time_limit ({task.time_limit} s) must be at least control_dt ({task.control_dt} s)")
    return round(task.time_limit / task.control_dt)


def _copied(values: Terms) -> Terms:
    """Copies of a task's values, which may be live views of sim: later writes would change them."""
    return {name: value.clone() for name, value in values.items()}


def _zero_where(bad: Tensor, value: Tensor) -> Tensor:
    """`value` with zeros where bad (N,) bool; a product with 0 would keep a NaN."""
    return torch.where(bad.reshape(-1, *[1] * (value.dim() - 1)), 0.0, value)


def _columns(values: Terms, names: tuple[str, ...], sim: Any, kind: str) -> Tensor:
    """Terms (N,) as columns (N, len(names)) float32, in the order of `names`; TaskError for other names."""
    same_names(values, names, kind)
    if not names:
        return torch.zeros(sim.num_envs, 0, device=sim.device)
    return torch.stack([values[k] for k in names], -1).float()


def _concatenate(values: Terms, widths: dict[str, int], sim: Any, kind: str) -> Tensor:
    """Terms (N, d) side by side, (N, sum(widths)) float32; TaskError for other names or another total."""
    same_names(values, widths, kind)
    out = torch.cat([values[k] for k in widths], -1).float()
    if out.shape != (sim.num_envs, sum(widths.values())):
        got = {k: tuple(v.shape) for k, v in values.items()}
        raise TaskError(f"{kind} changed its widths from {widths} to {got}")
    return out
