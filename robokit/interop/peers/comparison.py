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
from robokit.interop.peers.peer import Peer, layout, name_of, peer_of, reward_keys
from robokit.task.lookup.find import load_task, title
from robokit.task.task import Task

BEYOND = 1.2  # actions are drawn up to here: what lies beyond 1 is clipped
REWARD = 1e-6  # relative: a reward is float32 here, and float64 there
SMALLEST = 1e-30  # of a reward: float32 has no smaller ones
Rows = dict[
    str, npt.NDArray[np.float64]
]  # name -> (T, N, w) of each step; what begins with _ is not compared


@dataclass(frozen=True)
class Difference:
    """Where one name first differs."""

    # "obs/TERM", "reward/TERM" (and "cost/", "metric/"), "reward" (the sum), "terminated", "truncated",
    # "qpos", "qvel"; "start/TERM": the observation where an episode begins; "time limit": in control steps,
    # compared even where no episode was as long
    name: str
    step: int  # control step of the comparison, from 1
    simulation: int
    column: int
    ours: float
    theirs: float
    steps: int  # in so many control steps of simulations it differs

    def __str__(self) -> str:
        where = f"{self.name}[{self.column}] first in step {self.step} of simulation {self.simulation}"
        return f"{where}: {self.ours:.9g} in robokit, {self.theirs:.9g} in gymnasium; {self.steps} in all"


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
    differences: tuple[Difference, ...]  # the earliest first; in one step causes before what follows

    @property
    def equal(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        verdict = "equal" if self.equal else "different"
        size = f"{self.steps} steps of {self.simulations} simulations, {self.ended} ends"
        lines = [f"{self.task} and {self.env}: {verdict} in {size}", *map(str, self.differences)]
        if self.unpaired:
            lines.append(f"compared in the reward's sum alone: {', '.join(self.unpaired)}")
        if self.broken:
            lines.append(f"not compared: {self.broken} steps in which a simulation broke in robokit")
        return "\n  ".join(lines)


def parity(
    task: str | Path | type[Task] | Task, env: str | Peer, steps: int = 300, *, simulations: int = 4,
    seed: int = 0, names: Mapping[str, str] | None = None, ignore: Collection[str] = (),
    tolerance: float = 0.0
) -> Parity:  # fmt: skip
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
    _check_known("ignore", ignore, [*ours.names.truth, *ours.names.rewards])
    here = _ours(ours, terms, pairs, steps, seed)
    there = _theirs(peer, here, terms, pairs)
    found = [*_differences(here, there, ignore, tolerance)]
    limit = (peer.spec and peer.spec.max_episode_steps) or ours.max_age
    if limit != ours.max_age:
        found.append(Difference("time limit", min(limit, ours.max_age), 0, 0, ours.max_age, limit, 0))
    bad = here["_bad"] == 1
    ended = int((here["terminated"] + here["truncated"])[~bad].sum())
    made = title(ours.task), name_of(peer), steps, simulations, ended, int(bad.sum()), pairs
    alone = tuple(name for name in ours.names.rewards if f"reward/{name}" not in pairs)
    return Parity(*made, alone, tuple(sorted(found, key=lambda x: x.step)))


def _ours(env: Env, terms: Mapping[str, int], pairs: Mapping[str, str], steps: int, seed: int) -> Rows:
    sim, rng, begun = env.sim, torch.Generator().manual_seed(seed), torch.ones(env.num_envs, dtype=torch.bool)
    truth, frames = env.names.truth, list[dict[str, np.ndarray]]()

    def exact(kind: str, state: Tensor) -> dict[str, Tensor]:
        parts = state[:, : sum(truth.values())].double().split([*truth.values()], -1)
        return {f"{kind}/{name}": x for name, x in zip(truth, parts, strict=True) if name in terms}

    for _ in range(steps):
        start = {name: x.where(begun[:, None], torch.nan) for name, x in exact("start", env.state).items()}
        frame = {"_begun": begun, "_qpos": sim.qpos.clone(), "_qvel": sim.qvel.clone(), **start}
        step = env.step(BEYOND * (2 * torch.rand(env.num_envs, env.act_dim, generator=rng) - 1))
        frame |= {"qpos": sim.qpos, "qvel": sim.qvel, **exact("obs", step.final_state)}
        frame |= {name: step.logged[:, env.labels.index(name)] for name in pairs}
        frame |= {name: getattr(step, name) for name in ("reward", "terminated", "truncated")}
        frame |= {"_ctrl": sim.ctrl, "_bad": step.bad, "_scale": step.terms.double().abs().sum(-1)}
        frames.append({name: array(x).astype(np.float64) for name, x in frame.items()})
        begun = step.done
        env.restart(begun)
    rows = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
    return {name: x.reshape(*x.shape[:2], -1) for name, x in rows.items()}


def _theirs(peer: Peer, here: Rows, terms: Mapping[str, int], pairs: Mapping[str, str]) -> Rows:
    """The same of the peer, one simulation after the other; where ours broke, ours."""
    inner: Any = peer.unwrapped
    there, stops = {name: x.copy() for name, x in here.items()}, np.cumsum([*terms.values()])[:-1]

    def named(kind: str, obs: np.ndarray) -> dict[str, Any]:
        parts = np.split(np.asarray(obs, np.float32), stops)
        return {f"{kind}/{name}": part for name, part in zip(terms, parts, strict=True)}

    for i, t in np.argwhere(here["_bad"][..., 0].T == 0).tolist():
        row: dict[str, Any] = {}
        if here["_begun"][t, i]:
            peer.reset()
            inner.data.qacc_warmstart[:] = 0.0
            inner.set_state(here["_qpos"][t, i], here["_qvel"][t, i])
            row = named("start", inner._get_obs())
        obs, reward, terminated, truncated, info = peer.step(here["_ctrl"][t, i])
        row |= {"qpos": inner.data.qpos, "qvel": inner.data.qvel, **named("obs", obs)}
        row |= {name: info[key] for name, key in pairs.items()}
        row |= {"reward": reward, "terminated": terminated, "truncated": truncated}
        for name, value in row.items():
            there[name][t, i] = value
    return there


def _differences(here: Rows, there: Rows, ignore: Collection[str], tolerance: float) -> Iterator[Difference]:
    skipped = {name for name in here if name[0] == "_" or name.partition("/")[2] in ignore}
    sums = sum((here[name] - there[name] for name in skipped if name.startswith("reward/")), there["reward"])
    fine = np.isfinite(here["_scale"])  # a sum of float32 terms that are more than that holds is no number
    theirs = there | {"reward": np.where(fine, sums, here["reward"])}
    for name, a in here.items():
        if name in skipped:
            continue
        b, relative, absolute = theirs[name], tolerance, np.zeros(1)
        if name.startswith(("reward", "cost", "metric")):
            with np.errstate(over="ignore"):
                b, relative, absolute = b.astype(np.float32).astype(np.float64), REWARD, absolute + SMALLEST
        if name == "reward":
            relative, absolute = 0.0, REWARD * np.where(fine, here["_scale"], 0.0)
        apart = ~np.isclose(a, b, rtol=relative, atol=absolute, equal_nan=True)
        if apart.any():
            t, i, j = (int(x) for x in np.argwhere(apart)[0])
            values = float(a[t, i, j]), float(b[t, i, j]), int(apart.any(-1).sum())
            yield Difference(name, t + 1, i, j, *values)


def _check_state(env: Env, peer: Peer) -> None:
    """Raise OptionError unless a peer can be put into a state of the task's."""
    inner: Any = peer.unwrapped
    if not all(hasattr(inner, name) for name in ("data", "set_state", "_get_obs")):
        raise OptionError(f"{name_of(peer)} has no state to put it into: it is no MujocoEnv of gymnasium")
    ours, theirs = ([x.qpos.shape[-1], x.qvel.shape[-1]] for x in (env.sim, inner.data))
    if ours != theirs:
        rule = f"{title(env.task)} has {ours} qpos and qvel"
        raise OptionError(f"{rule}, {name_of(peer)} has {theirs}: not one model")


def _check_known(option: str, names: Collection[str], known: Collection[str]) -> None:
    for name in sorted({*names} - {*known}):
        raise OptionError(f"{option}: no {name!r}{did_you_mean(name, known, f'there are {sorted(known)}')}")


def _pairs(env: Env, peer: Peer, names: dict[str, str]) -> dict[str, str]:
    """Label -> key of the peer's info: those given; for a reward term the one key that has its name in it.

    A last term without one has the last key of a reward that is left.
    """
    peer.reset()
    info = peer.step(env.map.center.clamp(env.map.low, env.map.high).cpu().numpy())[-1]
    _check_known("names", names, env.labels)
    _check_known("names' keys of the info", names.values(), info)
    for last in (False, True):
        terms = [term for term in env.names.rewards if f"reward/{term}" not in names]
        keys = [key for key in reward_keys(info) if key not in names.values()]
        like = {term: [key for key in keys if term in key or (last and len(terms) == 1)] for term in terms}
        names |= {f"reward/{term}": fit[0] for term, fit in like.items() if len(fit) == 1}
    return names
