"""Whether a task gives the numbers of an environment of gymnasium, step for step.

found = parity("hopper", "Hopper-v5", steps=300)
print(found)    # equal, or the terms and the first step in which each differs
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.errors import OptionError, did_you_mean
from robokit.interop.observed import array
from robokit.interop.peer import Peer, layout, name_of, peer_of, reward_keys
from robokit.task.lookup.find import load_task, title
from robokit.task.task import Task

BEYOND = 1.2  # actions are drawn up to here: what lies beyond 1 is clipped
REWARD = 1e-6  # relative: a reward is float32 here, and float64 there
SMALLEST = 1e-30  # of a reward: float32 has no smaller ones
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Where one name first differs."""

    # "obs/TERM", "reward/TERM" (and "cost/", "metric/"), "reward" (the sum), "terminated", "truncated",
    # "qpos", "qvel"; "start/TERM": the observation where an episode begins; "time limit": in control steps,
    # compared even where no episode was as long
    name: str
    step: int  # control step of the comparison, from 1
    simulation: int
    column: int | None  # None: one number
    ours: float
    theirs: float
    steps: int  # in so many control steps of simulations it differs

    def __str__(self) -> str:
        name = self.name if self.column is None else f"{self.name}[{self.column}]"
        values = f"{self.ours:.9g} in robokit, {self.theirs:.9g} in gymnasium"
        return (
            f"{name} first in step {self.step} of simulation {self.simulation}: {values}; {self.steps} in all"
        )


@dataclass(frozen=True)
class Parity:
    """A comparison of a task with an environment of gymnasium; `print` shows it."""

    task: str
    env: str
    steps: int
    simulations: int
    ended: int  # episodes that were compared to their end
    broken: int  # steps in which a simulation broke here, not compared
    names: dict[str, str]  # "reward/TERM" -> the key of gymnasium's info it was compared with
    unpaired: tuple[str, ...]  # reward terms with no such key: only their sum was compared
    differences: tuple[Difference, ...]  # the earliest first

    @property
    def equal(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        size = f"{self.steps} steps of {self.simulations} simulations, {self.ended} ends"
        alone = [f"  not compared by themselves: {', '.join(self.unpaired)}"] if self.unpaired else []
        broke = [f"  {self.broken} steps broke the simulation, not compared"] if self.broken else []
        verdict = "equal" if self.equal else "different"
        lines = [f"{self.task} and {self.env}: {verdict} in {size}", *map("  {}".format, self.differences)]
        return "\n".join([*lines, *alone, *broke])


def parity(
    task: str | Path | type[Task] | Task,
    env: str | Peer,
    steps: int = 300,
    *,
    simulations: int = 4,
    seed: int = 0,
    names: Mapping[str, str] | None = None,
    ignore: Collection[str] = (),
    tolerance: float = 0.0,
) -> Parity:
    """Run a task and an environment of gymnasium from the same states with the same ctrl, and compare.

    Episodes begin where the task's begin; the environment is put there: qpos, qvel, no warm start. Actions
    are drawn anew in each step, some beyond [-1, 1]. Compared in every step are observations as float32 (the
    exact values of `observe`), qpos, qvel, the ends, the reward and those of its terms that have a name in
    gymnasium's info. The task runs `nominal`.

    env: an id, or an environment of MuJoCo's, whose `max_episode_steps` counts. names: {"reward/TERM",
    "cost/NAME" or "metric/NAME": key in its info}; reward terms are found by their names. ignore: terms that
    may differ, as ("contact",). tolerance: relative, of observations, qpos and qvel; 0: equal to the bit.
    Rewards are equal within 1e-6, a sum within that of its terms' magnitudes.

    Raises TaskError for the task, OptionError for an unknown id or name, an environment without MuJoCo's
    state, and spaces, control periods or states of other sizes: `layout`.
    """
    if steps < 1 or simulations < 1:
        raise OptionError(f"steps and simulations must be at least 1, got {steps} and {simulations}")
    ours = Env(load_task(task), simulations, seed=seed, nominal=True, autoreset=False, threads=1)
    peer = peer_of(env)
    terms = layout(ours, peer)
    _check_state(ours, peer)
    pairs = _pairs(ours, peer, dict(names or {}))
    if unknown := set(ignore) - {*ours.names.truth, *ours.names.rewards}:
        known = [*ours.names.truth, *ours.names.rewards]
        raise OptionError(f"ignore names terms, got {min(unknown)!r}{did_you_mean(min(unknown), known)}")
    run = _Run(ours, terms, pairs, ignore)
    here = run.ours(steps, seed)
    there = run.theirs(peer, here)
    alone = [name for name in ours.names.rewards if f"reward/{name}" not in pairs]
    found = [*run.differences(here, there, tolerance), *_limits(ours, peer)]
    found.sort(key=lambda x: (x.step, x.simulation))
    ended, broken = int((here.done & ~here.bad).sum()), int(here.bad.sum())
    made = title(ours.task), name_of(peer), steps, simulations, ended, broken
    return Parity(*made, pairs, tuple(alone), tuple(found))


@dataclass(frozen=True)
class _Recorded:
    """T steps of N simulations."""

    rows: Array  # (T, N, W) what is compared; NaN: not in this step
    starts: Array  # (T, N, nq + nv) before the step
    ctrl: Array  # (T, N, nu)
    scale: Array  # (T, N, 1) sum of the magnitudes of the reward's terms
    begun: npt.NDArray[np.bool_]  # (T, N) an episode begins with the step
    done: npt.NDArray[np.bool_]  # (T, N)
    bad: npt.NDArray[np.bool_]  # (T, N) the simulation broke


class _Run:
    """The columns of a comparison: names and their widths."""

    def __init__(
        self, env: Env, terms: Mapping[str, int], pairs: Mapping[str, str], ignore: Collection[str]
    ) -> None:
        self.env, self.terms, self.pairs, self.ignore = env, terms, pairs, ignore
        self.size = env.sim.qpos.shape[1], env.sim.qvel.shape[1]
        self.widths = {f"start/{name}": width for name, width in terms.items()}
        self.widths |= {"qpos": self.size[0], "qvel": self.size[1]}
        self.widths |= {f"obs/{name}": width for name, width in terms.items()}
        self.widths |= dict.fromkeys((*pairs, "reward", "terminated", "truncated"), 1)

    def seen(self, state: Tensor) -> Tensor:
        """The compared columns of a state (N, S), whose first ones are what the task observes, exact."""
        truth = self.env.names.truth
        parts = dict(zip(truth, state[:, : sum(truth.values())].split([*truth.values()], -1), strict=True))
        return torch.cat([parts[name] for name in self.terms], -1)

    def ours(self, steps: int, seed: int) -> _Recorded:
        env, sim, rng = self.env, self.env.sim, torch.Generator().manual_seed(seed)
        columns = [env.labels.index(name) for name in self.pairs]
        begun, recorded = torch.ones(env.num_envs, dtype=torch.bool), list[list[Any]]()
        for _ in range(steps):
            seen = self.seen(env.state).double().where(begun[:, None], torch.nan)
            start = torch.cat((sim.qpos, sim.qvel), -1)
            action = BEYOND * (2 * torch.rand(env.num_envs, env.act_dim, generator=rng) - 1)
            step = env.step(action)
            one = step.reward, step.terminated, step.truncated
            parts = seen, sim.qpos, sim.qvel, self.seen(step.final_state), step.logged[:, columns]
            row = torch.cat((*parts, *(x[:, None] for x in one)), -1)
            scale = step.terms.double().abs().sum(-1, keepdim=True)
            recorded.append([*map(array, (row, start, sim.ctrl, scale, begun, step.done, step.bad))])
            begun = step.done
            env.restart(begun)
        return _Recorded(*map(np.stack, zip(*recorded, strict=True)))

    def theirs(self, peer: Peer, here: _Recorded) -> Array:
        """Rows (T, N, W) of the peer, one simulation after the other."""
        inner: Any = peer.unwrapped
        rows = here.rows.copy()
        for i in range(rows.shape[1]):
            for t in np.flatnonzero(~here.bad[:, i]).tolist():
                seen = np.full(sum(self.terms.values()), np.nan)
                if here.begun[t, i]:
                    seen = _put(peer, *np.split(here.starts[t, i], self.size[:1]))
                obs, *one, info = peer.step(here.ctrl[t, i])
                state, terms = (inner.data.qpos, inner.data.qvel), [info[key] for key in self.pairs.values()]
                seen, obs = (np.asarray(x, np.float32) for x in (seen, obs))
                parts: list[Any] = [seen, *state, obs, terms, one]
                rows[t, i] = np.concatenate(parts)
        return rows

    def differences(self, here: _Recorded, there: Array, tolerance: float) -> Iterator[Difference]:
        split = np.cumsum([*self.widths.values()])[:-1]
        mine, other = (
            dict(zip(self.widths, np.split(x, split, -1), strict=True)) for x in (here.rows, there)
        )
        compared = [name for name in self.widths if name.partition("/")[2] not in self.ignore]
        for name in {name for name in self.pairs if name.startswith("reward/")} - {*compared}:
            other["reward"] = other["reward"] + mine[name] - other[name]
        fine = np.isfinite(here.scale)  # a sum of float32 terms that are more than that holds is no number
        other["reward"] = np.where(fine, other["reward"], mine["reward"])
        scale = np.where(fine, here.scale, 0.0)
        for name in compared:  # causes first: of one step, the first named is the earliest
            a, b, relative, absolute = mine[name], other[name], tolerance, np.zeros(1)
            if name in (*self.pairs, "reward"):
                with np.errstate(over="ignore"):
                    b = b.astype(np.float32).astype(np.float64)
                relative, absolute = (0.0, REWARD * scale) if name == "reward" else (REWARD, SMALLEST)
            apart = ~np.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True)
            if apart.any():
                t, i, column = (int(x) for x in np.argwhere(apart)[0])
                values = float(a[t, i, column]), float(b[t, i, column])
                at = t + 1, i, column if self.widths[name] > 1 else None
                yield Difference(name, *at, *values, int(apart.any(-1).sum()))


def _limits(env: Env, peer: Peer) -> Iterator[Difference]:
    limit = peer.spec.max_episode_steps if peer.spec else None
    if limit is not None and limit != env.max_age:
        yield Difference("time limit", min(limit, env.max_age), 0, None, env.max_age, limit, 0)


def _put(peer: Peer, qpos: Array, qvel: Array) -> Array:
    """Begin an episode in a state, without a warm start; the observation."""
    inner: Any = peer.unwrapped
    peer.reset()
    inner.data.qacc_warmstart[:] = 0.0
    inner.set_state(qpos, qvel)
    return inner._get_obs()


def _check_state(env: Env, peer: Peer) -> None:
    """Raise OptionError unless a peer can be put into a state of the task's."""
    inner: Any = peer.unwrapped
    if not all(hasattr(inner, name) for name in ("data", "set_state", "_get_obs")):
        rule = "is no MuJoCo environment of gymnasium (MujocoEnv): there is no state to put it into"
        raise OptionError(f"{name_of(peer)} {rule}")
    ours, theirs = ([x.qpos.shape[-1], x.qvel.shape[-1]] for x in (env.sim, inner.data))
    if ours != theirs:
        names = title(env.task), name_of(peer)
        raise OptionError(f"{names[0]} has {ours} qpos and qvel, {names[1]} has {theirs}: not one model")


def _pairs(env: Env, peer: Peer, names: dict[str, str]) -> dict[str, str]:
    """Label -> key of the peer's info: those given; for a reward term the one key that has its name in it.

    A last term without one has the last key of a reward that is left.
    """
    peer.reset()
    center = env.map.center.clamp(env.map.low, env.map.high).cpu().numpy()
    info = peer.step(center)[-1]
    for label, key in names.items():
        for what, one, known in (("a label", label, env.labels), ("in its info", key, info)):
            if one not in known:
                rule = f"names pair a label with a key of the info; {one!r} is not {what}"
                raise OptionError(f"{rule}{did_you_mean(one, known)}; there are {sorted(known)}")
    terms = [name for name in env.names.rewards if f"reward/{name}" not in names]
    free = [key for key in reward_keys(info) if key not in names.values()]
    for term in terms:
        if len(like := [key for key in free if term in key]) == 1:
            names[f"reward/{term}"] = like[0]
    terms = [name for name in terms if f"reward/{name}" not in names]
    if len(terms) == len(free := [key for key in free if key not in names.values()]) == 1:
        names[f"reward/{terms[0]}"] = free[0]
    return names
