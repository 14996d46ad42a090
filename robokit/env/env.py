"""N simulations of a task, stepped together: control periods, commands, restarts.

    env = robokit.make("hopper", num_envs=64, seed=0)
    obs = env.reset()                                # (N, O)
    step = env.step(torch.zeros(64, env.act_dim))    # actions in [-1, 1], (N, A)

One `step`, in this order: clip the action, map it to ctrl, delay that, disturb, physics, find broken
simulations, rewards, costs and metrics (with the memory and commands that the policy observed), remember,
final_obs, redraw commands, restarts, obs. `Step.final_obs` is the observation after the action and before any
restart, so a time-out bootstraps with V(final_obs) and a termination with 0.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robokit.compute.compile import Unguarded
from robokit.compute.transfer import Transfer
from robokit.console import say
from robokit.env.blocks import Blocks, check_copy
from robokit.env.broken import Broken
from robokit.env.carried import carried_terms
from robokit.env.commands import Commands
from robokit.env.delay import TargetDelay
from robokit.env.joints import joint_columns
from robokit.env.levels import Levels
from robokit.env.memory import copied, memory_of
from robokit.env.period import Period, substeps
from robokit.env.sensing import Sensors
from robokit.env.step import Outcome, Step
from robokit.errors import CheckpointError, OptionError, TaskError
from robokit.sim.engines import make_sim
from robokit.sim.model import compile_model, compiled_once, load
from robokit.sim.rows import Rows
from robokit.state import Saved
from robokit.task.action import moves
from robokit.task.action_map import map_of
from robokit.task.checks.rules import check_constants, check_finite, read_names
from robokit.task.columns import columns_of
from robokit.task.lookup.find import load_task
from robokit.task.randomized import resolve
from robokit.task.states import load_libraries
from robokit.task.task import Task


class Env(Saved):
    """N simulations of one task. Raises TaskError if the task breaks its contract, before anything runs.

    sim: the engine, "mujoco" (on the CPU) or "warp" (on `device`). device: where returned tensors live. If
    physics runs elsewhere, a step's tensors are copied in one transfer, and only the action's copy back
    (with a Delta the observation's too) blocks. threads: physics threads on the CPU, 0 for all cores.
    compile: torch.compile the task's functions.
    nominal: no `randomize`, pushes, delays or sensor errors; hidden terms, resets and commands as ever.
    training: reset states are drawn, levels move, commands are redrawn at success. Else episodes begin as the
    task's own, at the top level, and keep their goals.
    blocks: K equal parts of N/K simulations, one after the other, that get the same random numbers: with the
    same actions they stay equal to the last bit, and equal to an Env of N/K with this seed. Where others
    restart in one part than in another, the numbers differ from there on.
    autoreset: `step` restarts the episodes that end; without it they wait for `restart`.
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
        training: bool = False,
        blocks: int = 1,
        autoreset: bool = True,
    ) -> None:
        if not isinstance(num_envs, int) or num_envs < 1:
            raise OptionError(f"num_envs must be a whole number from 1 on, got {num_envs!r}")
        if seed < 0:
            raise OptionError(f"seed must be at least 0, got {seed}")
        check_constants(task)
        self.task, self.num_envs, self.nominal, self.training = task, num_envs, nominal, training
        self.device, self.seed, self.autoreset = torch.device(device), seed, autoreset
        options: dict[str, Any] = {"lag": task.lag, "threads": threads}
        options["device"] = str(device) if sim == "warp" else "cpu"
        with compiled_once():
            spec = load(task.model, task)
            model = compile_model(spec)
            self.carried = carried_terms(task, model)
            self.act_dim = self.carried[0].size
            resolve(task, model)
            self.sim = make_sim(sim, spec, num_envs, memory_of(task, self.carried), **options)
        self.sim.highest = task.level.highest if task.level else None
        self.sim.libraries = load_libraries(task, self.sim) if training else None
        if not self.act_dim:
            held = " that its action does not hold" * bool(model.nu)
            raise TaskError(f"the model of {type(task).__name__} has no actuator with a control{held}")
        self._moves = moves(task.action)
        if not self._moves:
            self.map = map_of(task.action, self.sim, [None] * int(model.nu))
        self.broken = Broken(self.sim)
        self.nstep = substeps(task.control_dt, self.sim.timestep)
        self.rng = torch.Generator(self.sim.device).manual_seed(seed)
        self.blocks = Blocks(blocks, self.sim, self.rng)
        self.commands = Commands(task, self.sim, self.rng, training, self.blocks.each)
        self.names = read_names(task, self.sim, seed, nominal)
        self.levels = Levels(task, self.sim, self.names, training)
        self.columns = columns_of(self.names.obs, task.commands, [term.name for term in self.carried])
        self.obs_dim = sum(self.names.obs.values())
        self.state_dim = sum(self.names.state.values())
        size = task.control_dt, num_envs, self.sim.device
        self.sensors = Sensors(task.sensing, self.names.truth, *size, exact=nominal, blocks=blocks)
        if self._moves:
            self.map = map_of(task.action, self.sim, joint_columns(task, self.sim, self.sensors))
        self._sent: Tensor | None = None  # see `send`
        late = 0.0 if nominal else task.action_delay
        self._action_delay = TargetDelay(late, self.sim.timestep, self.nstep, self.sim.ctrl)
        parts = self.sensors, self.commands, self.carried, self.levels
        on_cpu = self.sim.device.type == "cpu"
        self.period = period = Period(task, self.sim, self.names, parts)
        self.max_age, self.labels = period.max_age, period.labels
        self._after, self._look, self._judges = period.after, period.look, [period.judge] * 2
        if compile:
            self._after = Unguarded(period.after, on_cpu, self._not_compiled)
            self._look = Unguarded(period.look, False, self._not_compiled)
            # a graph is not told of another `look`
            self._judges = [Unguarded(x, on_cpu, self._not_compiled) for x in self._judges]
        self._pushes = type(task).disturb is not Task.disturb and not nominal
        self._starts = {t.name: self.sim.constant(*t.constant) for t in self.carried if any(t.constant)}
        self._all = torch.arange(num_envs, device=self.sim.device)
        shared = torch.empty(0, device=self.device).device == self.sim.device
        self._transfer = None if shared else Transfer(self.device)
        self.reset()
        check_finite(task, self.sim)

    # -- one control period ----------------------------------------------------------------------

    def targets(self, action: Tensor) -> Tensor:
        """Actuator targets ctrl (N, nu), clamped to ctrlrange, for actions (N, A), clipped to [-1, 1]."""
        if not self._moves:
            return self.map.target(action)
        return self.map.target(action, self.sim.memory["target"], self.obs.to(self.sim.device))

    def send(self, ctrl: Tensor) -> None:
        """Send targets (N, nu) in the next step in place of the action's, as a filter does.

        Raises OptionError for another shape. A reset forgets them.
        """
        if ctrl.shape != self.sim.ctrl.shape:
            rule = f"targets must have the shape {tuple(self.sim.ctrl.shape)}"
            raise OptionError(f"{rule}, got {tuple(ctrl.shape)}")
        self._sent = ctrl.to(self.sim.device, self.sim.dtype).contiguous()

    def step(self, action: Tensor) -> Step:
        """Advance `control_dt` s with actions (N, A), clipped to [-1, 1]; restart the episodes that end.

        Raises OptionError if `action` is no tensor of this shape.
        """
        sim = self.sim
        action, target = self._act(action)
        self.sensors.advance(self.rng)
        fields, due, found = self._after(action, target)
        broken, over, moved = self._read(found)
        if broken:
            # before a restart clears them; on a GPU causes would be a dozen kernels in every step
            self.broken.add(sim.faults() if sim.device.type == "cpu" else fields["bad"][:, None])
        if moved:
            self._redraw_commands(due)
        over = over and self.autoreset
        if over:
            self._restart(fields["done"])
            self._begin(fields["done"])
        changed = self._look() if over or moved else (fields["final_obs"], fields["final_state"])
        fields |= zip(("obs", "state"), changed, strict=True)
        if self._transfer is not None:
            fields = self._transfer(fields)
        step = Step(**fields)
        if broken:  # after the transfer: the last good observations are on self.device
            step.final_obs = torch.where(step.bad[:, None], self.obs, step.final_obs)
            step.final_state = torch.where(step.bad[:, None], self.state, step.final_state)
        self.obs, self.state = step.obs, step.state
        return step

    def advance(self, action: Tensor, look: bool = False) -> Outcome:
        """The first half of `step`: physics, rewards, costs, memory, no metrics; tensors of the simulation.

        Nothing is sensed, redrawn or restarted: simulations go on after their end, `obs` stays. look: it
        moves on, through the sensors, as `step`'s final_obs; for a Delta always. Raises as `step`.
        """
        action, target = self._act(action)
        if look := look or self._moves:
            self.sensors.advance(self.rng)
        fields = self._judges[look](action, target, look)
        if look:
            self.obs, self.state = (fields.pop(f"final_{name}").to(self.device) for name in ("obs", "state"))
            del fields["metrics"]
        return Outcome(**fields)

    def _act(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """(action, targets that were sent) after a control period of physics."""
        sim = self.sim
        if not isinstance(action, Tensor) or action.shape != (self.num_envs, self.act_dim):
            got = tuple(action.shape) if isinstance(action, Tensor) else type(action).__name__
            shape = self.num_envs, self.act_dim
            raise OptionError(f"action must be a tensor of shape {shape}, got {got}")
        # float32 and contiguous: a graph is not told of another dtype or layout
        action = action.detach().to(sim.device, torch.float32).contiguous()
        sent, self._sent = self._sent, None
        target = self.targets(action) if sent is None else sent  # what a Delta moves on from
        ctrl = self._action_delay.read(target) if self._action_delay.depth else target
        if self._pushes:
            pushes = self.blocks.disturb(self.task)
            for name, value in (copied(pushes) if len(pushes) > 1 else pushes).items():
                sim.written(name).copy_(value)
        sim.step(ctrl, self.nstep)
        return action, target

    def reset(self, stagger: bool = False) -> Tensor:
        """Restart all simulations; obs (N, O). stagger: step counts start at random, to spread time-outs."""
        age = torch.rand(self.blocks.size, 1, generator=self.rng, device=self.sim.device) * self.max_age
        self._restart(None)
        self._sent = None
        if stagger:
            self.sim.memory["age"].copy_(age.floor().repeat(self.blocks.number, 1))
        self.sensors.draw(self.rng)
        return self._begun(None)

    def restart(self, mask: Tensor) -> Tensor:
        """Begin new episodes where mask (N,) bool, with the draws of a `step` that ends them; obs (N, O).

        Raises OptionError for another mask.
        """
        if mask.dtype != torch.bool or mask.shape != (self.num_envs,):
            got = f"{mask.dtype} {tuple(mask.shape)}"
            raise OptionError(f"a mask of restarts must be bool and of shape ({self.num_envs},), got {got}")
        mask = mask.to(self.sim.device)
        if self._read(mask.any()[None])[0]:
            self._restart(mask)
        return self._begun(mask)

    def terms(self) -> dict[str, Tensor]:
        """{name: (N, d)} of the last returned obs, with its sensor errors and without hidden terms."""
        return self.split(self.obs)

    def split(self, obs: Tensor) -> dict[str, Tensor]:
        """{name: (..., d)} of an observation (..., O), as views."""
        return dict(zip(self.names.obs, obs.split(list(self.names.obs.values()), -1), strict=True))

    def hold(self, commands: Mapping[str, Sequence[float]]) -> None:
        """Keep commands at {name: d numbers} from the next restart or redraw on: see `Commands.hold`."""
        self.commands.hold(commands)

    def _not_compiled(self, reason: str) -> None:
        say(f"note: {type(self.task).__name__} cannot be compiled and runs eager, slower: {reason}")

    def _read(self, found: Tensor) -> list[bool]:
        """The flags (3,). On a GPU all True, because reading them would block the host."""
        return found.tolist() if found.device.type == "cpu" else [True] * len(found)

    # -- restarts and commands -------------------------------------------------------------------

    def _restart(self, done: Tensor | None) -> None:
        """Begin new episodes where done (N,) bool, None for all; draws are made for those that restart."""
        self.levels.begin()
        for which in self.blocks.each(self._all if done is None else self.sim.chosen(done)):
            self._restart_rows(which)

    def _restart_rows(self, which: Tensor) -> None:
        """Begin new episodes of `which`: see state.put."""
        sim, task = self.sim, self.task
        some = len(which) < self.num_envs and which.dtype != torch.bool
        rows = Rows(sim, which) if some else sim
        values = {**self.commands.draw(rows), **task.reset(rows, self.rng)}
        if not self.nominal:
            values |= task.randomize(rows, self.rng)
        for name, value in values.items():
            if len(value) != len(which):
                rule = f"must have a row for each of the {len(which)} simulations that restart, sim.num_envs"
                raise TaskError(f"{type(task).__name__}'s new {name!r} {rule}; it has {len(value)}")
        values |= self.commands.held(len(which)) | self.levels.keep(which)
        commands = [values[name] for name in task.commands]
        for term in self.carried:
            if term.name in self._starts:  # a restart zeroes memory
                values[term.name] = term.now(self._starts[term.name].expand(len(which), -1), commands)
        # rows are copies already
        sim.reset(None if which is self._all else which, values if some else copied(values))
        self.sensors.restart(which, self.rng)
        if self._action_delay.depth:
            first = self.map.center.clamp(self.map.lowest, self.map.highest)  # of action 0
            self._action_delay.draw(which, first[None], self.rng)

    def _begun(self, done: Tensor | None) -> Tensor:
        """After `_restart(done)`: start targets, observe; obs (N, O)."""
        self._begin(done)
        self.obs, self.state = (x.to(self.device) for x in self._look())
        return self.obs

    def _begin(self, done: Tensor | None) -> None:
        """Start a Delta's targets at the first readings where done (N,) bool, None for all."""
        if self._moves:
            start, memory = self.map.start(self._look()[0]), self.sim.memory["target"]
            memory.copy_(start if done is None else torch.where(done[:, None], start, memory))
            if self._action_delay.depth:
                self._action_delay.fill(done, start)

    def _redraw_commands(self, due: Tensor) -> None:
        """Redraw commands where due (C, N) bool, and what follows them."""
        self.commands.redraw(due)
        self.period.carry({t.name: self.sim.memory[t.name] for t in self.carried if t.follows_commands})

    # -- copy, save and continue -----------------------------------------------------------------

    def copy(self, other: "Env", rows: Tensor) -> None:
        """Simulation i goes on as `rows[i]` of `other` does; rows (N,): numbers, each also several times.

        All that is kept is copied: the simulation with its written model fields, memory and commands, values
        of `hold`, levels, delay lines, sensors, observations. Random numbers are not: with `blocks` such that
        N/K is other's N, `self.rng.set_state(other.rng.get_state())` makes the draws to come equal too.
        Raises OptionError for rows that `other` lacks, and for an Env of another task, engine or `nominal`.
        """
        check_copy(self, other, rows)
        self.sim.copy(other.sim, rows)
        self.sensors.copy(other.sensors, rows)
        self._action_delay.copy(other._action_delay, rows)
        self.commands.copy(other.commands)
        self._sent = None if other._sent is None else other._sent[rows]
        self.obs, self.state = other.obs[rows], other.state[rows]

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()` of an Env of the same task, num_envs and engine.

        Checks only the shape of obs (CheckpointError).
        """
        if state["obs"].shape != self.obs.shape:
            expected, got = tuple(self.obs.shape), tuple(state["obs"].shape)
            raise CheckpointError(f"the checkpoint holds observations {got}, this environment has {expected}")
        super().load_state_dict(state)

    def _parts(self) -> dict[str, Any]:
        """All that a bit-equal continuation needs except the values of `hold`."""
        own = {"rng": self.rng, "obs": self.obs, "state": self.state}
        return {"sim": self.sim, "sensors": self.sensors, **self._action_delay.parts, **own}


def make(task: str | Path | type[Task] | Task, num_envs: int = 1, **options: Any) -> Env:
    """An Env of a task given by name ("hopper"), path ("file.py:Class"), class or object; options: of Env."""
    return Env(load_task(task), num_envs, **options)
