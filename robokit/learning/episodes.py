"""Return and length of finished episodes, and sizes of the task's terms, without a host round trip."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from robokit.compute import processes
from robokit.env.env import Env
from robokit.env.step import Step
from robokit.errors import TaskError
from robokit.state import Saved

LARGEST = 1e15  # of a term: a training squares terms and adds them up, in float32
UNCOUNTED = ("metric/", "limit/", "success/")  # beginnings of keys that an iteration may have no number for
FUNCTIONS = {"reward": "rewards", "cost": "costs", "metric": "metrics"}  # of a task, by the kind of a label


class EpisodeTotals(Saved):
    """Sums of the running episodes of N simulations, and means over those finished since the last summary."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self._running = torch.zeros(2, num_envs, device=device, dtype=torch.float64)  # return, length
        self._finished = torch.zeros(3, device=device, dtype=torch.float64)  # sums of both, count

    def add(self, reward: Tensor, done: Tensor) -> None:
        """Add T control steps: reward (T, N), done (T, N) bool, where an episode ends with this step."""
        reward = reward.double()
        # sums since the start of the episode that was running before the T steps
        sums = torch.stack((reward, torch.ones_like(reward))).cumsum(1) + self._running[:, None]
        last = len(done) - 1 - done.flip(0).int().argmax(0)  # the last end of each simulation, if any
        ended = sums.gather(1, last.expand(2, 1, -1))[:, 0] * done.any(0)
        self._finished[:2].add_(ended.sum(1))
        self._finished[2].add_(done.sum())
        self._running.copy_(sums[:, -1] - ended)

    def summary(self) -> dict[str, float]:
        """Means "episode/return", "episode/length", and the number "episode/count"; {} if it is 0.

        Of the episodes finished since the last call, in all processes.
        """
        returns, length, count = processes.total(self._finished).tolist()
        self._finished.zero_()
        if not count:
            return {}
        return {"episode/return": returns / count, "episode/length": length / count, "episode/count": count}

    def _parts(self) -> dict[str, Tensor]:
        return {"running": self._running, "finished": self._finished}


class Reach:
    """The largest absolute value of each of a task's terms in one iteration: no training can use any."""

    def __init__(self, env: Env, widths: Mapping[str, int]) -> None:
        """widths: of the terms of the critic's input, whose columns `look` takes as `state`."""
        self.labels = env.labels
        self._strict = len(env.names.rewards) + len(env.names.costs)
        inputs = [_input(env, name) for name, width in widths.items() for _ in range(width)]
        kinds = (label.split("/", 1) for label in self.labels)
        self._names = [
            *observed(env),
            *inputs,
            *(f"{FUNCTIONS.get(kind, kind)} {name!r}" for kind, name in kinds),
        ]
        self._top = torch.zeros(len(self._names), device=env.device)

    def look(self, obs: Tensor, state: Tensor, logged: Tensor) -> None:
        """Take an iteration's observations (T, N, O), critic's inputs (T, N, S) and Step.logged (T, N, L)."""
        strict, rest = logged.tensor_split([self._strict], -1)
        rest = torch.where(rest.isinf(), rest, 0.0)  # a metric may be NaN, "not counted", and large
        self._top = torch.cat([_top(part) for part in (obs, state, strict, rest)])

    @property
    def beyond(self) -> Tensor:
        """0-d: 1 if a term was NaN, infinite or above LARGEST, else 0."""
        return (~(self._top <= LARGEST)).any().double()

    def error(self) -> TaskError:
        """What to raise in every process if any of them is `beyond`: names the terms."""
        tops = torch.tensor(processes.everyone(self._top.tolist()))
        return TaskError(beyond(self._names, tops))

    def add(self, step: Step) -> None:
        """Take one control step more, beside those before."""
        before = self._top
        self.look(step.obs[None], step.state[None], step.logged[None])
        self._top = torch.maximum(before, self._top)  # NaN stays

    def check(self) -> None:
        """Raise TaskError, which names the terms, if one of this process alone is `beyond`."""
        if wrong := beyond(self._names, self._top[None]):
            raise TaskError(wrong)


def _top(part: Tensor) -> Tensor:
    """The largest absolute value of each column of (T, N, C), NaN if one is."""
    rows = part.flatten(0, 1)
    return torch.maximum(rows.amax(0), -rows.amin(0))


def observed(env: Env) -> list[str]:
    """`observe 'angle'` for each column of an Env's observation."""
    return [f"observe {name!r}" for name, width in env.names.obs.items() for _ in range(width)]


def _input(env: Env, name: str) -> str:
    """A term of the critic's input: exact observations, privileged terms, and the maxima of peak costs."""
    if name in env.names.truth:
        return f"observe {name!r}"
    own = f"privileged {name.removeprefix('privileged ')!r}"
    return own if name in env.names.state else f"costs {name!r}"


def beyond(names: Sequence[str], x: Tensor) -> str:
    """Which columns of x (M, C) are NaN, infinite or above LARGEST, and the rule; "" if none is."""
    tops = zip(names, x.abs().amax(0).tolist(), strict=True)
    worst = {name: top for name, top in tops if not top <= LARGEST}
    for name in ("action", "clock") if len(worst) > 1 else ():  # they follow from the others
        worst.pop(f"observe {name!r}", None)
    found = ", ".join(f"{name} ({top:.3g})" for name, top in worst.items())
    rule = f"must be finite and within {LARGEST:g}, for it is squared and added up in float32"
    return f"{found} {rule}: clamp or rescale in the task" if found else ""


def iteration_metrics(
    episodes: EpisodeTotals,
    reach: Reach,
    losses: Mapping[str, Tensor],
    logged: Tensor,
    *more: Mapping[str, Tensor],
) -> dict[str, float]:
    """Metrics of one iteration: `episodes.summary()`, "loss/NAME", terms (means by Env.labels) and `more`.

    logged: means of Step.logged, (L,). Where commands are redrawn at success, "episode/goals" is how many
    goals an episode reached. Raises TaskError for a term that a training cannot use: see `Reach`.
    """
    terms = dict(zip(reach.labels, logged.unbind(), strict=True))
    named = {f"loss/{name}": value for name, value in losses.items()}
    others = {name: value for part in more for name, value in part.items()}
    found = numbers({"beyond": reach.beyond, **named, **terms, **others})
    if found.pop("beyond"):
        raise reach.error()
    finished = episodes.summary()
    if "goal/reached" in found and finished:
        finished["episode/goals"] = found["goal/reached"] * finished["episode/length"]
    return {**finished, **found}


def numbers(logged: Mapping[str, Tensor]) -> dict[str, float]:
    """0-d tensors as numbers, in one transfer; the mean over the processes where they are not NaN.

    NaN in every process: a key that begins like one of UNCOUNTED was not counted and is left out, another
    stays.
    """
    values = torch.stack([value.detach().double() for value in logged.values()])
    known = ~values.isnan()
    summed, count = processes.total(torch.stack((torch.where(known, values, 0.0), known.double())))
    named = zip(logged, (summed / count).tolist(), strict=True)
    return {k: v for k, v in named if not (k.startswith(UNCOUNTED) and math.isnan(v))}
