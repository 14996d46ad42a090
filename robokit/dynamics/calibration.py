"""How good a learned model is, by control steps that the judged member never trained on ("out of bag").

    one_step(net, x, y, own, widths)          # likelihood, error, intervals, by term
    open_loop(agent, windows)                 # error after 1, 5, ..., 100 steps

At each step, imagined ones too, the member predicts that left out the block which this control step of the
recording is in: see ensemble.fold. Errors are root mean squares, as shares of a column's own deviation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robokit.dynamics.ensemble import Dynamics, fold
from robokit.dynamics.imagine import Model
from robokit.errors import RunError, TaskError
from robokit.learning.offpolicy.replay import Replay
from robokit.learning.rollout import Batch

HORIZONS = 1, 5, 10, 20, 50, 100  # control steps of the open loop
ROWS, LEAST = 16_384, 30  # single steps that are judged, at most; pieces for a figure, else there is none
INTERVALS = {"50": 0.674490, "90": 1.644854}  # % of a normal distribution -> deviations from its mean
LOG_2PI, MOST = 1.837877, 1e6  # the largest error that is told
Numbers = dict[str, float | None]


@dataclass(frozen=True)
class Quality:
    """The report of `robokit dynamics`; errors are shares of a column's deviation. None: too few rows."""

    task: str
    steps: int  # control steps of the training
    transitions: int  # in the replay
    nll: float  # nats a predicted column, of changes in units of their deviation
    outputs: dict[str, Numbers]  # term, "reward" or cost -> nll, error, within_50, within_90
    rank: float  # Spearman's, of the members' disagreement with the error
    ends: dict[str, Numbers]  # "learned", "task" -> precision, recall, ends, found
    rows: dict[int, int]  # steps of the open loop -> pieces
    open_loop: dict[int, dict[str, Numbers]]  # steps -> term -> model, still, velocity
    stopped: float  # share of imagined rows that stop their rollout
    control_dt: float  # s
    delays: list[float]  # R^2 of the inverse model by assumed delay, in control steps
    delay: int | None  # control steps; None: the actions leave no trace
    told: tuple[float, float]  # s, what the task draws the delay from
    goals: dict[str, Any] | None  # near, far: [{goal, steps}]; unseen of number: no recorded state is there

    def text(self) -> str:
        """The report for a person."""
        who = {"learned": "by the classifier", "task": "as the task tells them"}
        lines = [
            f"{self.task}: the model after {self.steps:,} control steps, out of bag on {self.transitions:,}",
            f"likelihood: minus its logarithm (nll) {self.nll:.2f} a column; mean and deviation alone: 1.42",
            f"disagreement and error: rank correlation {self.rank:.2f}",
            f"imagined rows that stop their rollout: {self.stopped:.1%}",
            *(f"ends, {who[kind]}: {_named(found)}" for kind, found in self.ends.items()),
            f"\n{'one step':<24}{'nll':>8}{'error':>8}{'in 50 %':>8}{'in 90 %':>8}",
        ]
        for name, found in self.outputs.items():
            lines.append(f"{name:<24}" + "".join(f"{x:>8.3f}" for x in found.values()))
        kept = [h for h in self.open_loop if self.rows[h] >= LEAST]
        lines.append("\nopen loop: error of the model | stands still | constant velocity")
        lines.append(f"{'steps':<24}" + "".join(f"{h:>22}" for h in kept))
        for name in self.open_loop[kept[0]] if kept else ():
            cells = (" | ".join(map(_short, self.open_loop[h][name].values())) for h in kept)
            lines.append(f"{name:<24}" + "".join(f"{cell:>22}" for cell in cells))
        lines.append(f"\ndelay of the action: R^2 of an inverse model by steps: {_listed(self.delays)}")
        late = "no trace" if self.delay is None else f"{self.delay} steps, {self.delay * self.control_dt:g} s"
        drawn = " to ".join(f"{seconds:g}" for seconds in dict.fromkeys(self.told))
        lines.append(f"found: {late}; the task says {drawn} s")
        if (goals := self.goals) is not None:
            for part in ("near", "far"):
                rows = [f"{row['steps']:>8.1f} steps  {_listed(row['goal'])}" for row in goals[part]]
                lines += [f"\ngoals that are {part}", *rows]
            lines.append(f"goals at which no recorded state is: {goals['unseen']} of {goals['number']}")
        return "\n".join(lines)


def windows(agent: Any, replay: Replay, picked: Tensor, length: int) -> Batch:
    """Agent.batch (T, M, ...) of `length` control steps from `picked` (M,), see Replay.pick, and beside it:

    frame, final (T, M, F): before and after the step, a Delta's targets always as before it. valid (T, M)
    bool: the first step's episode goes on up to here, and nothing broke. own (T, M): the member that never
    trained on the step. agent: an SVG.
    """
    batch, rows = agent.batch(*replay.take(picked, length)), replay.rows.shape[1]
    step = picked // rows + torch.arange(length, device=picked.device)[:, None]
    own = fold(step, (picked % rows).expand_as(step), agent.model.net.members)
    target = (batch["target"],) if "target" in batch else ()
    frame, final = (torch.cat((batch[name], *target), -1) for name in ("obs", "final_obs"))
    going = torch.cat((torch.zeros_like(batch["done"][:1]), batch["done"][:-1])).cumsum(0) == 0
    valid = going & (batch["bad"].cumsum(0) == 0)
    return {**batch, "frame": frame, "final": final, "valid": valid, "own": own}


def pieces(agent: Any, replay: Replay, number: int, length: int, rng: torch.Generator) -> Batch:
    """`windows` at random. Raises RunError where the replay keeps fewer control steps."""
    if len(replay) < length:
        rule = f"the replay must keep at least {length} control steps of each simulation"
        raise RunError(f"{rule} to judge its model, got {len(replay)}")
    return windows(agent, replay, replay.pick(number, length, rng), length)


def recorded(agent: Any, replay: Replay, rng: torch.Generator) -> dict[str, Tensor]:
    """x, y, ended as Dynamics.loss takes them; frame, action, own: of at most ROWS control steps (M, ...).

    Those in which a simulation broke are left out. Raises TaskError for a number that is not finite.
    """
    rows = replay.rows.shape[1]
    picked = torch.randperm(len(replay) * rows, generator=rng, device=replay.rows.device)[:ROWS]
    picked += replay.oldest * rows
    x, y, _, ended, sound = agent.data(*replay.take(picked))
    now = windows(agent, replay, picked, 1)
    found = {"x": x, "y": y, "ended": ended} | {name: now[name][0] for name in ("frame", "action", "own")}
    found = {name: part[sound] for name, part in found.items()}
    for name, values in (("inputs", found["x"]), ("outputs", found["y"])):
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
    z, outputs = error * torch.exp(-log_std), dict[str, Numbers]()
    nll = 0.5 * (z.square() + LOG_2PI) + log_std
    for name, *of in zip(widths, *(v.split([*widths.values()], -1) for v in (nll, error, z)), strict=True):
        within = {f"within_{k}": float((of[2].abs() < most).float().mean()) for k, most in INTERVALS.items()}
        outputs[name] = {"nll": float(of[0].mean()), "error": _rms(of[1]), **within}
    rank = spearman(net.disagreement(mean), error[:, : net.changes].square().mean(-1))
    return {"nll": float(nll[:, : net.changes].mean()), "outputs": outputs, "rank": rank}


def ends_found(found: Tensor, ended: Tensor) -> Numbers:
    """Precision and recall of the ends found (M,) bool among the true ones (M,); None: of none."""
    both, told, true = (float(x.sum()) for x in (found & ended, found, ended))
    shares = {"precision": both / told if told else None, "recall": both / true if true else None}
    return {**shares, "ends": true, "found": told}


@torch.no_grad()
def ends(
    model: Model, x: Tensor, frame: Tensor, action: Tensor, own: Tensor, ended: Tensor
) -> dict[str, Numbers]:
    """`ends_found` in the next frame that the own member predicts: by its classifier, and by the task."""
    change = model.net.out.back(_of(model.net(x)[0], own))[:, : model.frames.predicted]
    seen = model.frames.next(frame, action, change)[:, : model.frames.obs_dim]
    found = {"learned": _of(model.net.logit(seen), own) > 0}
    found |= {"task": model.known(seen)} if model.known else {}
    return {name: ends_found(told, ended) for name, told in found.items()}


@torch.no_grad()
def open_loop(agent: Any, w: Batch) -> dict[str, Any]:
    """`rows` and `open_loop` of Quality, from the second frame of each of the `windows`.

    The model has its own predictions, and the recorded actions and commands. still: the second frame stays;
    velocity: it goes on as it came from the first.
    """
    model, frames = agent.model, agent.model.frames
    names = {name for name, kind in frames.kinds.items() if kind != "sensed" and name != "target"}
    unit = frames.of(torch.cat((model.net.seen.std, w["frame"].new_zeros(frames.hidden))))
    belief = agent.policy.encode(w["obs"][0], w["belief"], w["is_first"][0])[1]
    frame, start = w["frame"][1], frames.of(w["frame"][1])
    velocity, later = start - frames.of(w["frame"][0]), torch.zeros_like(w["is_first"][0])
    rows, found = dict[int, int](), dict[int, dict[str, Numbers]]()
    for t in range(1, len(w["frame"])):
        given, action = frames.split(w["frame"][t]), w["action"][t]
        frame = torch.cat([given[k] if k in names else x for k, x in frames.split(frame).items()], -1)
        belief = agent.policy.encode(frame[:, : frames.obs_dim], belief, later)[1]
        mean = _of(model.net(model.inputs(frame, belief, action))[0], w["own"][t])
        frame = frames.next(frame, action, model.net.out.back(mean)[:, : frames.predicted])
        if t in HORIZONS:
            truth, widths = frames.of(w["final"][t]), [*frames.sensed.values()]
            said = {"model": frames.of(frame), "still": start, "velocity": start + t * velocity}
            off = {k: ((x - truth) / unit)[w["valid"][t]].split(widths, -1) for k, x in said.items()}
            rows[t] = int(w["valid"][t].sum())
            rms = {k: [_rms(x) if rows[t] >= LEAST else None for x in parts] for k, parts in off.items()}
            found[t] = {n: {k: x[i] for k, x in rms.items()} for i, n in enumerate(frames.sensed)}
    return {"rows": rows, "open_loop": found}


def spearman(one: Tensor, other: Tensor) -> float:
    """Rank correlation of two columns (M,) without equal numbers."""
    return float(torch.corrcoef(torch.stack([x.argsort().argsort().double() for x in (one, other)]))[0, 1])


def _rms(x: Tensor) -> float:
    return min(float(x.square().mean().sqrt().nan_to_num(MOST, MOST)), MOST)


def _of(each: Tensor, own: Tensor) -> Tensor:
    """Rows (M, ...) of the members `own` (M,) from all members' (E, M, ...)."""
    return each[own, torch.arange(len(own), device=own.device)]


def _short(x: float | None) -> str:
    return "-" if x is None else f"{x:.0f}" if x >= 10 else f"{x:.2g}"


def _named(found: Numbers) -> str:
    return ", ".join(f"{name} {_short(x)}" for name, x in found.items())


def _listed(numbers: Sequence[float]) -> str:
    return " ".join(f"{x:.3g}" for x in numbers)
