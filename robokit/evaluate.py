"""What an exported file is worth: episodes of the ONNX itself in batched MuJoCo, with honest statistics.

    report = evaluate("hopper.onnx", "hopper", episodes=300)
    print(report.text())

Exactly one episode in each of `episodes` simulations, from seeds that training never uses, on the task as
trained; `nominal` turns randomisation, pushes and noise off. Given the torch policy too, the same episodes
are run with it and the paired difference is reported.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robokit.card import clip_command, clip_note, supplied
from robokit.controller import OUTPUTS, load
from robokit.env import Env
from robokit.errors import OptionError, TaskError
from robokit.gate import CARRIED
from robokit.policy import Policy
from robokit.task import Task, load_task

SEED_OFFSET = 1_000_000  # training seeds lie below, evaluation seeds above
RESAMPLES = 10_000  # of the bootstrap
LEVEL = 0.95  # of every interval
Array = npt.NDArray[np.float64]
Act = Callable[[Env, Tensor], Tensor]  # (env, first (N,)) -> action (N, A)


@dataclass(frozen=True)
class Summary:
    """Statistics over `count` episodes; `low` and `high` bound the mean (percentile bootstrap, 95 %)."""

    mean: float
    low: float
    high: float
    iqm: float  # interquartile mean (Agarwal et al. 2021, arXiv:2108.13264)
    std: float
    min: float
    max: float
    count: int  # all episodes; of a metric those in which it was counted


@dataclass(frozen=True)
class Episodes:
    """One episode of each of E simulations; sums and means are per episode."""

    returns: Array  # (E,) undiscounted
    lengths: Array  # (E,) control steps
    terms: dict[str, Array]  # (E,) weighted sum of each reward term
    costs: dict[str, Array]  # (E,) sum of each cost
    metrics: dict[
        str, dict[str, Array]
    ]  # name -> {"mean", "last", "max" ("ever" of a boolean)}, (E,) each; NaN: never counted
    terminated: int
    bad: int  # episodes that ended because the simulation broke


@dataclass(frozen=True)
class Report:
    """What `robokit evaluate` prints."""

    task: str
    file: str
    sha256: str
    episodes: int
    seed: int
    nominal: bool
    returns: Summary
    length: Summary
    terms: dict[str, Summary]
    costs: dict[str, Summary]
    metrics: dict[str, dict[str, Summary]]
    terminated: int
    bad: int
    versus_torch: Summary | None  # ONNX minus torch, paired by episode
    commands: dict[str, list[float]]  # held throughout; the others were drawn
    notes: list[str]  # about commands outside the trained range

    def to_json(self) -> str:
        """Everything, at full precision."""
        return json.dumps(asdict(self), indent=1)

    def text(self) -> str:
        """A table for people."""
        how = "nominal" if self.nominal else "as trained"
        lines = [f"{self.task}, {self.episodes} episodes of {Path(self.file).name}, {how}, seed {self.seed}"]
        lines += [f"  {name} held at {' '.join(f'{x:g}' for x in v)}" for name, v in self.commands.items()]
        lines += [f"  {note}" for note in self.notes]
        lines.append(
            f"  {'':<26}{'mean':>11}  {'95 % interval':<22}{'iqm':>11}{'std':>11}{'min':>11}{'max':>11}"
        )
        lines += [_row("return", self.returns), _row("length (control steps)", self.length)]
        lines += [_row(f"reward {k}", v) for k, v in self.terms.items()]
        lines += [_row(f"cost {k}", v) for k, v in self.costs.items()]
        for name, kinds in self.metrics.items():
            lines += [_row(f"{name} ({kind})", v) for kind, v in kinds.items()]
            if (count := min((v.count for v in kinds.values()), default=0)) < self.episodes:
                lines.append(f"  {name}: counted in {count or 'fewer than 2'} of {self.episodes} episodes")
        lines.append(f"  terminated {self.terminated} of {self.episodes}, broken simulations {self.bad}")
        if self.versus_torch is not None:
            v = self.versus_torch
            lines.append(
                f"  ONNX minus torch: {v.mean:+.4g} in return, 95 % interval [{v.low:.4g}, {v.high:.4g}]"
            )
        return "\n".join(lines)


def evaluate(
    path: str | Path,
    task: str | Path | type[Task] | Task,
    episodes: int = 300,
    *,
    seed: int = 0,
    nominal: bool = False,
    commands: Mapping[str, Sequence[float]] | None = None,
    policy: Policy | None = None,
    sim: str = "cpu",
    device: str = "cpu",
    threads: int = 0,
) -> Report:
    """Statistics of an exported file on a task; `policy` is the torch policy it was exported from.

    `commands` are held, within what the policy was trained on; the report's notes say what was clipped.

    Raises ContractError for a file that is not whole, TaskError when it was exported for another task,
    OptionError for episodes < 2 (an interval needs two).
    """
    if episodes < 2:
        raise OptionError(f"episodes must be at least 2, got {episodes}")
    path, task = Path(path), load_task(task)
    session, contract = load(path)
    _same_task(contract, task, path)
    commands = commands or {}
    held = {name: clip_command(contract, name, numbers) for name, numbers in commands.items()}

    def fresh() -> Env:
        options: dict[str, Any] = {"seed": SEED_OFFSET + seed, "nominal": nominal, "sim": sim}
        env = Env(task, episodes, **options, device=device, threads=threads)
        _same_inputs(contract, env, path)
        env.hold(held)
        return env

    ran = run_episodes(fresh(), onnx_actor(session, int(contract["carry"]["size"])))
    versus = None
    if policy is not None:
        versus = summarize(ran.returns - run_episodes(fresh(), torch_actor(policy)).returns)
    steps = int(ran.lengths.sum())
    clipped = {name: numbers for name, numbers in commands.items() if held[name] != [*numbers]}
    return Report(
        task=contract["task"],
        file=str(path),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        episodes=episodes,
        seed=seed,
        nominal=nominal,
        returns=summarize(ran.returns),
        length=summarize(ran.lengths),
        terms={k: summarize(v) for k, v in ran.terms.items()},
        costs={k: summarize(v) for k, v in ran.costs.items()},
        metrics={k: _summarize_counted(kinds) for k, kinds in ran.metrics.items()},
        terminated=ran.terminated,
        bad=ran.bad,
        versus_torch=versus,
        commands=held,
        notes=[clip_note(contract, name, numbers, steps) for name, numbers in clipped.items()],
    )


def onnx_actor(session: Any, carry_size: int) -> Act:
    """Actions of an exported graph; ctrl is mapped back to [-1, 1], which Env maps forward again."""
    carry: list[npt.NDArray[np.float32]] = []

    def act(env: Env, first: Tensor) -> Tensor:
        if not carry:
            carry.append(np.zeros((env.num_envs, carry_size), np.float32))
        terms = {n: t.contiguous().cpu().numpy() for n, t in env.terms().items() if n not in CARRIED}
        ctrl, carry[0] = session.run(OUTPUTS, {**terms, "carry": carry[0], "reset": first.cpu().numpy()})
        action = (torch.from_numpy(ctrl).to(env.action_center) - env.action_center) / env.action_half
        return action

    return act


def torch_actor(policy: Policy) -> Act:
    """Deterministic actions of a torch policy."""
    belief: list[Tensor] = []

    @torch.no_grad()
    def act(env: Env, first: Tensor) -> Tensor:
        if not belief:
            belief.append(torch.zeros(env.num_envs, policy.belief_size, device=env.device))
        action, belief[0] = policy(env.obs, belief[0], first)
        return action

    return act


def run_episodes(env: Env, act: Act) -> Episodes:
    """One episode of each simulation of `env`, from a reset; a metric that is NaN is not counted there."""
    env.reset()
    names, n, device = env.names, env.num_envs, env.device
    running = torch.ones(n, dtype=torch.bool, device=device)
    first = running.clone()
    widths = (1, len(names.rewards), len(names.costs), len(names.metrics), len(names.metrics), 1)
    totals = torch.zeros(n, sum(widths), dtype=torch.float64, device=device)
    last = torch.full((n, len(names.metrics)), torch.nan, dtype=torch.float64, device=device)
    peak, ended, bad = last.clone(), torch.zeros_like(running), torch.zeros_like(running)
    one = torch.ones(n, 1, device=device)
    while bool(running.any()):
        step = env.step(act(env, first))
        first = step.done
        counted = ~step.metrics.isnan()
        metrics = torch.where(counted, step.metrics, 0.0)
        totals += running[:, None] * torch.cat(
            (step.reward[:, None], step.terms, step.cost, metrics, counted, one), -1
        )
        counted &= running[:, None]
        last = torch.where(counted, step.metrics.double(), last)
        peak = torch.where(counted, torch.fmax(peak, step.metrics.double()), peak)  # fmax: past the NaN
        ended, bad = ended | (running & step.terminated), bad | (running & step.bad)
        running = running & ~step.done
    returns, terms, costs, sums, counts, length = (c.cpu().numpy() for c in totals.split(widths, -1))
    kinds = sums / np.where(counts, counts, np.nan), last.cpu().numpy(), peak.cpu().numpy()
    labels = {name: ("mean", "last", "ever" if name in names.booleans else "max") for name in names.metrics}
    return Episodes(
        returns=returns[:, 0],
        lengths=length[:, 0],
        terms={k: terms[:, i] for i, k in enumerate(names.rewards)},
        costs={k: costs[:, i] for i, k in enumerate(names.costs)},
        metrics={
            name: {label: kind[:, i] for label, kind in zip(labels[name], kinds, strict=True)}
            for i, name in enumerate(names.metrics)
        },
        terminated=int(ended.sum()),
        bad=int(bad.sum()),
    )


def summarize(x: Array) -> Summary:
    """Mean, interquartile mean and a percentile bootstrap of the mean over episodes x (E,)."""
    low, high = bootstrap(x)
    return Summary(
        mean=float(x.mean()),
        low=low,
        high=high,
        iqm=interquartile_mean(x),
        std=float(x.std(ddof=1)),
        min=float(x.min()),
        max=float(x.max()),
        count=len(x),
    )


def _summarize_counted(kinds: Mapping[str, Array]) -> dict[str, Summary]:
    """Over the episodes in which a metric was counted; nothing when they are fewer than two."""
    counted = {kind: x[~np.isnan(x)] for kind, x in kinds.items()}
    return {kind: summarize(x) for kind, x in counted.items() if len(x) > 1}


def bootstrap(x: Array, seed: int = 0) -> tuple[float, float]:
    """Percentile interval of the mean of x (E,) at LEVEL (Efron & Tibshirani 1993, chapter 13)."""
    rng = np.random.default_rng(seed)
    chunks = [x[rng.integers(len(x), size=(RESAMPLES // 20, len(x)))].mean(1) for _ in range(20)]
    means = np.concatenate(chunks)  # in chunks, for the memory of many episodes
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)


def interquartile_mean(x: Array) -> float:
    """Mean of the middle half of x (E,), the numbers at its edges counted by the part that lies inside."""
    ordered, n = np.sort(x), len(x)
    edges = np.arange(n + 1)
    inside = np.clip(np.minimum(edges[1:], 0.75 * n) - np.maximum(edges[:-1], 0.25 * n), 0.0, 1.0)
    return float((ordered * inside).sum() / inside.sum())


def _same_task(contract: Mapping[str, Any], task: Task, path: Path) -> None:
    if contract["task"].rpartition(":")[2] != type(task).__name__:
        raise TaskError(f"{path} was exported for task {contract['task']!r}, not {type(task).__name__!r}")


def _same_inputs(contract: Mapping[str, Any], env: Env, path: Path) -> None:
    takes, gives = {i["name"]: i["size"] for i in contract["inputs"]}, supplied(env)
    if takes != gives:
        raise TaskError(f"{path} takes {takes}, but {type(env.task).__name__} now gives {gives}: train again")


def _row(name: str, s: Summary) -> str:
    interval = f"[{s.low:.4g}, {s.high:.4g}]"
    return (
        f"  {name:<26}{s.mean:>11.4g}  {interval:<22}{s.iqm:>11.4g}{s.std:>11.4g}{s.min:>11.4g}{s.max:>11.4g}"
    )
