"""The command `robokit states`: files of reset states for `States` of a task."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from tyro.conf import Positional, arg

from robokit.calls.resolve import located, policy_of
from robokit.cli.words import OUTPUT, Trust
from robokit.disk.write import make_folder, write_atomically
from robokit.env.env import Env
from robokit.errors import OptionError, TaskError
from robokit.evaluation.episodes import Act, onnx_actor
from robokit.export.card import variant
from robokit.seeds import seed as seed_of
from robokit.sim.facts.readings import actuators
from robokit.sim.facts.starts import penetrations
from robokit.sim.kinematics import JOINTS, random_joints
from robokit.task.checks.guarded import call
from robokit.task.checks.rules import state_values
from robokit.task.lookup.find import load_task
from robokit.task.states import libraries, pack
from robokit.task.task import Task, Terms

BATCH = 256  # simulations at a time
TRIES = 10  # times the number asked for
SLOW = 0.05  # m/s, rad/s: a settled state is slower


@dataclass(frozen=True)
class MakeStates:
    """Write a file of states that episodes of a training begin from, for `States` of a task.

    They are those of a policy's rollouts, of random settling, or else of a method of the task: the one that
    `States` of this file names, else `states`. A state that penetrates by more than 5 mm is refused, and one
    that moves, unless it is a policy's.
    """

    # a name (see robokit tasks), file.py or file.py:Class
    task: Positional[Annotated[str, arg(metavar="TASK")]]
    # `States("states.npz")` is beside the task's file; none given: all files of the States in that file
    output: Annotated[Path | None, OUTPUT] = None
    number: int = 1000  # states in the file
    # states at random times of this policy's episodes: a name, a run folder or an exported file
    policy: str | None = None
    # s of physics from random joint positions, which servos hold
    settle: float | None = None
    seed: int = 0  # from 0 to 999999; disjoint from the seeds of training
    trust: Trust = False

    def __call__(self) -> int:
        if self.number < 1:
            raise OptionError(f"--number must be at least 1, got {self.number}")
        if self.settle is not None and not 0 < self.settle <= 100:
            raise OptionError(f"--settle must be in (0, 100] s, got {self.settle:g}")
        if self.settle is not None and self.policy is not None:
            raise OptionError(f"--settle or --policy, not both: got {self.settle:g} s and {self.policy}")
        task = load_task(self.task)
        known = {states.path.name: states for states in libraries(task).values()}
        own = [states.path for states in known.values() if states.is_of(task)]
        outputs = [self.output] if self.output else own
        if not outputs or (self.output is None and (self.policy, self.settle) != (None, None)):
            rule = "name one file by --output: without it, each file of the States in the task's file is made"
            raise OptionError(f"{rule}, by its method; {type(task).__name__} has {len(own)}")
        for output in outputs:
            method = known[output.name].method if output.name in known else "states"
            if (self.policy, self.settle) == (None, None) and not callable(getattr(task, method, None)):
                rule = f"{type(task).__name__} has no method {method}(self, sim, rng)"
                other = f", or name one of its files, {', '.join(known)}" * bool(known)
                raise OptionError(f"{rule}: write one, or take --policy or --settle{other}")
            self._make(task, output, method)
        return 0

    def _make(self, task: Task, output: Path, method: str) -> None:
        """Write one file, by this method of the task where no policy and no time is given."""
        make_folder(output.parent)
        env = Env(task, min(self.number, BATCH), seed=seed_of("states", self.seed))
        if self.policy is not None:
            file, _, _, own = policy_of(located(self.policy), self.task, self.trust)
            variant(file.contract, env, own)
            made, batch = f"of the policy {self.policy}", partial(_rollout, env, onnx_actor(file))
        elif self.settle is not None:
            made, batch = f"settled for {self.settle:g} s", partial(_settled, env, self.settle)
        else:
            made, batch = f"of the method {method}", partial(call, task, method, env.sim, env.rng)
        rows, refused = _chosen(env, method, batch, self.number, self.policy is not None)
        write_atomically(output, pack(rows, task, made))
        print(f"{output}: {self.number} states {made}; refused: {refused}")


def _chosen(
    env: Env, method: str, batch: Callable[[], Terms], number: int, may_move: bool
) -> tuple[Terms, str]:
    """(the first `number` states of batches without a fault, how many others had which)."""
    kept, deep, fast, tried = list[Terms](), 0, 0, 0
    while (have := sum(len(part["qpos"]) for part in kept)) < number:
        if tried >= TRIES * number:
            said = f"{deep} penetrating, {fast} moving"
            raise TaskError(f"{number} states are asked for, and {have} of {tried} are fit: {said}")
        env.reset()
        still = {name: x if name == "qpos" else torch.zeros_like(x) for name, x in _state(env).items()}
        values = state_values(env.task, method, still | batch(), env.sim)
        env.sim.reset(None, values)
        inside = torch.tensor([fault is not None for fault in penetrations(env.sim)])
        moving = (values["qvel"].abs() > SLOW).any(-1) & (not may_move)
        deep, fast, tried = deep + int(inside.sum()), fast + int(moving.sum()), tried + env.num_envs
        kept.append({name: x[~(inside | moving)] for name, x in values.items()})
    rows = {name: torch.cat([part[name] for part in kept])[:number] for name in kept[0]}
    return rows, f"{deep} penetrating, {fast} moving"


def _state(env: Env, *names: str) -> Terms:
    """Copies of the present state, and of memory by name."""
    act = ["act"] if env.sim.model.na else []
    return {name: env.sim.written(name).clone() for name in ("qpos", "qvel", *act, *names)}


def _rollout(env: Env, act: Act) -> Terms:
    """The state at a random time of each simulation, in episodes of a policy."""
    times = torch.randint(env.max_age, (env.num_envs, 1), generator=env.rng)
    is_first, taken = torch.ones(env.num_envs, dtype=torch.bool), _state(env, *env.task.memory)
    for time in range(env.max_age):
        now = _state(env, *env.task.memory)
        taken = {name: torch.where(times == time, now[name], x) for name, x in taken.items()}
        is_first = env.step(act(env, is_first)).done
    return taken


def _settled(env: Env, seconds: float) -> Terms:
    """Random hinges and slides, then physics: servos hold what was drawn, other controls have action 0's."""
    sim, model = env.sim, env.sim.model
    rng = np.random.default_rng(int(torch.randint(1 << 62, (), generator=env.rng)))
    joints = [j for j in range(model.njnt) if int(model.jnt_type[j]) in JOINTS]
    places = model.jnt_qposadr[joints].tolist()
    drawn = torch.from_numpy(random_joints(model, joints, env.num_envs, rng))
    qpos, ctrl = sim.qpos.clone(), env.targets(torch.zeros(env.num_envs, env.act_dim))
    qpos[:, places] = drawn[:, places]
    for column, fact in enumerate(actuators(sim)):
        if "kp" in fact and fact["unit"] in ("m", "rad"):
            ctrl[:, column] = drawn[:, int(model.joint(fact["joint"]).qposadr[0])]
    sim.reset(None, {"qpos": qpos})
    sim.step(ctrl, max(1, round(seconds / sim.timestep)))
    state = _state(env)
    state["qvel"][sim.bad()] = 1.0  # it moves: MuJoCo has begun anew
    return state
