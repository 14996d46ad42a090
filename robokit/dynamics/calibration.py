"""How good a learned model is, by control steps that the judged member never trained on ("out of bag").

    data = recorded(agent, replay, rng)                  # single control steps, and whole pieces of episodes
    one_step(net, data.x, data.y, data.own, names)       # likelihood, error, intervals, by term
    open_loop(agent, data.windows)                       # error after 1, 5, ..., 100 steps

At each step, of imagined ones too, the member predicts that left out the block which this control step of the
recording is in: see ensemble.fold. Errors are root mean squares, as shares of a column's own deviation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from robokit.dynamics.ensemble import Dynamics, fold
from robokit.dynamics.imagine import Model
from robokit.errors import RunError, TaskError
from robokit.learning.offpolicy.replay import Replay
from robokit.learning.rollout import Batch

HORIZONS = 1, 5, 10, 20, 50, 100  # control steps of the open loop
ROWS, WINDOWS, LEAST = 16_384, 512, 30  # of single steps; of pieces; of a figure, else it is not given
INTERVALS = {"50": 0.674490, "90": 1.644854}  # % of a normal distribution -> deviations from its mean
LOG_2PI = 1.837877
MOST = 1e6  # an error that has grown beyond it
Numbers = dict[str, float | None]


class Source(Protocol):
    """An agent that learns a model: see algos/svg.py."""

    model: Model
    policy: Any

    def batch(self, rows: Tensor, belief: Tensor) -> Batch: ...
    def data(self, rows: Tensor, belief: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]: ...


class Windows(NamedTuple):
    """M pieces of T consecutive control steps, each of one simulation; an episode may end in them."""

    frame: Tensor  # (T, M, F)
    action: Tensor  # (T, M, A)
    final: Tensor  # (T, M, F) the frame after the step, but its commands; a Delta's targets as before it
    valid: Tensor  # (T, M) bool: the episode of the first step goes on up to here, and nothing broke
    belief: Tensor  # (M, B) of the policy, before the first frame
    is_first: Tensor  # (T, M) bool
    own: Tensor  # (T, M) the member that never trained on the step


class Recorded(NamedTuple):
    """Single control steps of a replay, as Dynamics.loss takes them, and pieces of episodes."""

    x: Tensor  # (M, I)
    y: Tensor  # (M, D)
    seen: Tensor  # (M, O)
    ended: Tensor  # (M,) bool
    own: Tensor  # (M,) the member that never trained on the step
    frame: Tensor  # (M, F)
    action: Tensor  # (M, A)


@dataclass(frozen=True)
class Quality:
    """The report of `robokit dynamics`; errors are shares of a column's deviation. None: too few rows."""

    task: str
    steps: int  # control steps of the training
    transitions: int  # in the replay
    nll: float  # nats a predicted column, out of bag, of changes in units of their deviation
    outputs: dict[str, Numbers]  # term, "reward" or cost -> nll, error, within_50, within_90
    rank: float  # Spearman's, of the members' disagreement with the error
    ends: dict[str, dict[str, float | None]]  # "learned", "task" -> precision, recall, ends, found
    rows: dict[int, int]  # steps of the open loop -> pieces
    open_loop: dict[int, dict[str, Numbers]]  # steps -> term -> model, still, velocity
    stopped: float  # share of imagined rows that stop their rollout
    control_dt: float  # s
    delays: list[float]  # R^2 of the inverse model by assumed delay, in control steps
    delay: int | None  # control steps; None: the actions leave no trace
    told: tuple[float, float]  # s, what the task draws the delay from
    goals: dict[str, Any] | None  # near, far: [{goal, steps}]; unseen: goals that no recorded state is at

    def text(self) -> str:
        """The report for a person."""
        return "\n".join(_lines(self))


def windows_of(agent: Source, replay: Replay, number: int, length: int, rng: torch.Generator) -> Windows:
    """Random pieces of `length` control steps. Raises RunError where the replay keeps fewer."""
    if len(replay) < length:
        rule = f"the replay must keep at least {length} control steps of each simulation"
        raise RunError(f"{rule} to judge its model, got {len(replay)}")
    picked, simulations = replay.pick(number, length, rng), replay.rows.shape[1]
    batch = agent.batch(*replay.take(picked, length))
    members = agent.model.net.members
    step = picked // simulations + torch.arange(length, device=picked.device)[:, None]
    frame, final = (_frame(batch, name) for name in ("obs", "final_obs"))
    going = (~batch["done"]).cumprod(0).bool()
    valid = torch.cat((torch.ones_like(going[:1]), going[:-1])) & ~batch["bad"].cumsum(0).bool()
    own = fold(step, (picked % simulations).expand_as(step), members)
    return Windows(frame, batch["action"], final, valid, batch["belief"], batch["is_first"], own)


def recorded(agent: Source, replay: Replay, rng: torch.Generator) -> Recorded:
    """At most ROWS control steps of a replay, where no simulation broke.

    Raises TaskError for a number that is not finite, RunError for too few rows.
    """
    first, rows = replay.oldest, replay.rows.shape[1]
    places = torch.randperm(len(replay) * rows, generator=rng, device=replay.rows.device)[:ROWS]
    picked = first * rows + places.sort().values
    taken = replay.take(picked)
    x, y, seen, ended, sound = agent.data(*taken)
    batch, own = agent.batch(*taken), fold(picked // rows, picked % rows, agent.model.net.members)
    parts = (x, y, seen, ended, own, _frame(batch, "obs")[0], batch["action"][0])
    found = Recorded(*(part[sound] for part in parts))
    if len(found.x) < LEAST:
        raise RunError(f"a model is judged by at least {LEAST} control steps, got {len(found.x)}")
    for name, values in (("inputs", found.x), ("outputs", found.y), ("ends", found.seen)):
        if wrong := (~values.isfinite().all(0)).nonzero().flatten().tolist():
            raise TaskError(f"the model's {name} must be finite in the replay; columns {wrong} are not")
    return found


@torch.no_grad()
def one_step(net: Dynamics, x: Tensor, y: Tensor, own: Tensor, widths: Mapping[str, int]) -> dict[str, Any]:
    """`nll`, `outputs` and `rank` of Quality, for x (M, I), y (M, D), and own (M,) the judged members.

    widths: {name: columns} of the D outputs, in order.
    """
    mean, log_std = net(x)
    error, log_std = net.out(y) - _of(mean, own), _of(log_std, own)
    z = error * torch.exp(-log_std)
    nll = 0.5 * (z.square() + LOG_2PI) + log_std
    outputs = dict[str, Numbers]()
    for name, *parts in zip(
        widths, *(part.split([*widths.values()], -1) for part in (nll, error, z)), strict=True
    ):
        own_nll, off, deviations = parts
        within = {f"within_{k}": float((deviations.abs() < d).float().mean()) for k, d in INTERVALS.items()}
        outputs[name] = {"nll": float(own_nll.mean()), "error": float(off.square().mean().sqrt()), **within}
    change = slice(net.changes)
    rank = spearman(net.disagreement(mean), error[:, change].square().mean(-1))
    return {"nll": float(nll[:, change].mean()), "outputs": outputs, "rank": rank}


def ends_found(found: Tensor, ended: Tensor) -> Numbers:
    """Precision and recall of the ends found (M,) bool among the true ones (M,); None: of none."""
    both, told, true = (float(x.sum()) for x in (found & ended, found, ended))
    return {
        "precision": both / told if told else None,
        "recall": both / true if true else None,
        "ends": true,
        "found": told,
    }


@torch.no_grad()
def ends(model: Model, data: Recorded) -> dict[str, Numbers]:
    """`ends_found` in the next frame that the own member predicts: by its classifier, and by the task."""
    change = model.net.out.back(_of(model.net(data.x)[0], data.own))[:, : model.frames.predicted]
    seen = model.frames.next(data.frame, data.action, change)[:, : model.frames.obs_dim]
    found = {"learned": _of(model.net.logit(seen)[..., None], data.own)[:, 0] > 0}
    found |= {"task": model.known(seen)} if model.known else {}
    return {name: ends_found(told, data.ended) for name, told in found.items()}


@torch.no_grad()
def open_loop(agent: Source, windows: Windows) -> dict[str, Any]:
    """`rows` and `open_loop` of Quality, from each piece's second frame on.

    The model has its own predictions, and the recorded actions and commands. still: the second frame stays;
    velocity: it goes on as it came from the first.
    """
    model, frames, w = agent.model, agent.model.frames, windows
    names = [name for name, kind in frames.kinds.items() if kind != "sensed" and name != "target"]
    pad = w.frame.new_zeros(frames.hidden)
    unit, widths = frames.of(torch.cat((model.net.seen.std, pad))), [*frames.sensed.values()]
    belief = agent.policy.encode(w.frame[0, :, : frames.obs_dim], w.belief, w.is_first[0])[1]
    frame, start = w.frame[1], frames.of(w.frame[1])
    velocity, later = start - frames.of(w.frame[0]), torch.zeros_like(w.is_first[0])
    rows, found = dict[int, int](), dict[int, dict[str, Numbers]]()
    for t in range(1, len(w.frame)):
        given, now = frames.split(w.frame[t]), frames.split(frame)
        frame = torch.cat([given[name] if name in names else now[name] for name in now], -1)
        belief = agent.policy.encode(frame[:, : frames.obs_dim], belief, later)[1]
        mean = _of(model.net(model.inputs(frame, belief, w.action[t]))[0], w.own[t])
        frame = frames.next(frame, w.action[t], model.net.out.back(mean)[:, : frames.predicted])
        if t not in HORIZONS:
            continue
        valid, truth = w.valid[t], frames.of(w.final[t])
        rows[t], found[t] = int(valid.sum()), {}
        said = {"model": frames.of(frame), "still": start, "velocity": start + t * velocity}
        off = {k: ((x - truth) / unit)[valid].split(widths, -1) for k, x in said.items()}
        for i, name in enumerate(frames.sensed):
            found[t][name] = {k: _rms(x[i]) if rows[t] >= LEAST else None for k, x in off.items()}
    return {"rows": rows, "open_loop": found}


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two columns (M,) without equal numbers."""
    ranks = torch.stack([x.argsort().argsort().double() for x in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def _rms(x: Tensor) -> float:
    return min(float(x.square().mean().sqrt().nan_to_num(MOST, MOST)), MOST)


def _of(each: Tensor, own: Tensor) -> Tensor:
    """Rows (M, ...) of the members `own` (M,) from all members' (E, M, ...)."""
    return each[own, torch.arange(len(own), device=own.device)]


def _frame(batch: Batch, obs: str) -> Tensor:
    return torch.cat((batch[obs], batch["target"]), -1) if "target" in batch else batch[obs]


def _lines(q: Quality) -> list[str]:
    """The lines of a report."""
    lines = [
        f"{q.task}: the model after {q.steps:,} control steps, out of bag on {q.transitions:,} of its replay",
        f"likelihood: {q.nll:.2f} nats a column (1.42: knows only mean and deviation)",
        f"disagreement and error: rank correlation {q.rank:.2f}",
        f"imagined rows that stop their rollout: {q.stopped:.1%}",
        *(f"ends, {_WHO[who]}: {_shares(found)}" for who, found in q.ends.items()),
        "",
        f"{'one step':<24}{'nll':>8}{'error':>9}{'in 50 %':>9}{'in 90 %':>9}",
    ]
    for name, found in q.outputs.items():
        nll, error, *within = (value or 0.0 for value in found.values())
        lines.append(f"{name:<24}{nll:>8.2f}{error:>9.3f}" + "".join(f"{x:>9.3f}" for x in within))
    lines += ["", "open loop: error of the model | stands still | constant velocity"]
    kept = [h for h in q.open_loop if q.rows[h] >= LEAST]
    lines.append(f"{'steps':<24}" + "".join(f"{h:>22}" for h in kept))
    for name in q.open_loop[kept[0]] if kept else ():
        cells = (" | ".join(_short(x) for x in q.open_loop[h][name].values()) for h in kept)
        lines.append(f"{name:<24}" + "".join(f"{cell:>22}" for cell in cells))
    lines += ["", "delay of the action: R^2 of an inverse model by control steps: " + _listed(q.delays)]
    drawn = " to ".join(f"{seconds:g}" for seconds in dict.fromkeys(q.told))
    here = "no trace" if q.delay is None else f"{q.delay} control steps ({q.delay * q.control_dt:g} s)"
    lines.append(f"found: {here}; the task says {drawn} s")
    return lines + _goal_lines(q)


_WHO = {"learned": "by the classifier", "task": "as the task tells them"}


def _goal_lines(q: Quality) -> list[str]:
    if q.goals is None:
        return []
    rows = [
        f"  {row['steps']:>7.0f} steps  {_listed(row['goal'])}" for row in (*q.goals["near"], *q.goals["far"])
    ]
    near = len(q.goals["near"])
    unseen = [f"goals at which no recorded state is: {q.goals['unseen']} of {q.goals['number']}"]
    return ["", "goals that are near", *rows[:near], "and far", *rows[near:], *unseen]


def _shares(found: Numbers) -> str:
    parts = [f"{n} {'-' if (x := found[n]) is None else f'{x:.2f}'}" for n in ("precision", "recall")]
    return f"{', '.join(parts)}, {found['ends']:.0f} of them"


def _short(x: float | None) -> str:
    return "-" if x is None else f"{x:.2g}" if x < 1e4 else "much"


def _listed(numbers: Sequence[float]) -> str:
    return " ".join(f"{x:.3g}" for x in numbers)
