"""The report of `robokit evaluate` on one file, as a text table and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robokit.evaluation.reports.table import HEADER, bounds
from robokit.evaluation.reports.verdict import Verdict
from robokit.evaluation.statistics import Array, Share, Summary
from robokit.limits.measures import EpisodeCosts
from robokit.task.counts import Kind
from robokit.task.task import RETURN


@dataclass(frozen=True)
class Headline:
    """The task's headline in E episodes; larger is better."""

    name: str  # of a metric, or "return"
    kind: Kind  # what it is of an episode
    summary: Summary | None  # None: fewer than two episodes have a value

    @property
    def labels(self) -> list[str]:
        """Its name in tables, as ["headline success (held)"]; [] for the return, which has a row anyway."""
        return [] if self.name == RETURN else [f"headline {self.name} ({self.kind})"]

    def lines(self, episodes: int) -> list[str]:
        """The rows of the text table."""
        few = f"counted in fewer than 2 of {episodes} episodes"
        return [_row(k, self.summary) if self.summary else f"  {k}: {few}" for k in self.labels]


@dataclass(frozen=True)
class Failure:
    """The task's failure: the share of episodes in which any of its names was true, or that broke."""

    names: list[str]  # of boolean metrics, or "terminated"
    share: Share

    @property
    def label(self) -> str:
        return f"failed ({', '.join(self.names) or 'broken'})"

    def line(self) -> str:
        """The row of the text table."""
        s = self.share
        interval = bounds(s.low, s.high)
        return f"  {self.label:<26}{s.value:>11.4g}  {interval:<22}{f'{s.count} of {s.episodes}':>11}"


@dataclass(frozen=True)
class Sampled:
    """Results with sampled actions, as in training, where the multipliers follow such costs."""

    headline: Headline
    returns: Summary
    limits: dict[str, Verdict]


@dataclass(frozen=True)
class Through:
    """Results of the same episodes through a filter, as on the robot: docs/filter.md."""

    table: dict[str, Any]  # the resolved filter
    headline: Headline
    failure: Failure
    returns: Summary
    difference: Summary  # of returns, with minus without the filter, paired by episode
    terminated: int
    bad: int  # episodes ended by a broken simulation
    latched: int  # episodes that ended in the fallback
    shares: dict[str, float]  # of the control steps, by stage: FilteredActor.shares
    limits: dict[str, Verdict]

    def lines(self, episodes: int) -> list[str]:
        return [
            "  through the filter:",
            *self.headline.lines(episodes),
            _row("return", self.returns),
            self.failure.line(),
            f"  with minus without it: {_difference(self.difference)}",
            f"  terminated {self.terminated} of {episodes}, broken simulations {self.bad}, "
            f"in the fallback at the end {self.latched}",
            *(f"  {name:<26}{x:>11.2%} of the control steps" for name, x in self.shares.items() if x > 0),
            *(verdict.line(name) for name, verdict in self.limits.items()),
        ]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The report of `robokit evaluate` on one file."""

    task: str
    file: str | None  # None: the torch policy itself was measured
    sha256: str | None
    episodes: int
    seed: int
    nominal: bool
    headline: Headline
    failure: Failure
    returns: Summary
    length: Summary
    terms: dict[str, Summary]
    costs: dict[str, Summary] = field(default_factory=dict[str, Summary])
    metrics: dict[str, dict[str, Summary]] = field(default_factory=dict[str, dict[str, Summary]])
    terminated: int
    bad: int = 0
    gamma: float  # of discounted sums
    limits: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    # on all limits together, begins with PASS, FAIL or UNDECIDED; None: no limits
    verdict: str | None = None
    stochastic: Sampled | None = None
    versus_torch: Summary | None = None  # return of ONNX minus torch, paired by episode
    # constant ones; the others were drawn
    commands: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    notes: list[str]  # about commands outside the trained range
    # name -> numbers of all episodes, for statistics over several runs; None: no value
    per_episode: Mapping[str, Sequence[float | None]]
    filtered: Through | None = None
    variant: str | None = None  # the task of these episodes, if the file was exported for another
    goal: dict[str, Any] | None = None  # the task's, with the unit of its command

    @property
    def failed(self) -> bool:
        broken = self.bad + (self.filtered.bad if self.filtered else 0)
        return broken > 0 or any(v.verdict == "FAIL" for v in judged(self.limits, self.filtered).values())

    def numbers(self, name: str) -> Array:
        """Numbers (E,) of `per_episode`; NaN: no value."""
        return np.array(self.per_episode[name], np.float64)

    def episode_costs(self, name: str) -> EpisodeCosts[Array]:
        """Totals of the cost `name`, (E,) each."""
        return EpisodeCosts(*(self.numbers(f"{key}/{name}") for key in EpisodeCosts._fields))

    def facts(self) -> dict[str, Any]:
        """The report without the numbers of single episodes, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name != "per_episode"}

    def to_json(self) -> str:
        """The whole report as JSON, at full precision."""
        return json.dumps(asdict(self), indent=1)

    def text(self) -> str:
        """The report as a text table."""
        how = "nominal" if self.nominal else "as trained"
        name = Path(self.file).name if self.file else "the torch policy, of no exported file"
        lines = [f"{self.task}, {self.episodes} episodes of {name}, {how}, seed {self.seed}"]
        lines += [f"  on a variant: {self.variant}"] if self.variant else []
        lines += [f"  {name} held at {' '.join(f'{x:g}' for x in v)}" for name, v in self.commands.items()]
        if self.goal:
            near = f"{self.goal['achieved']} within {self.goal['within']:g} of {self.goal['command']}"
            lines.append(f"  success: {near} for the last {self.goal['hold']:g} s")
        lines += [f"  {note}" for note in self.notes]
        columns = "".join(f"{name:>11}" for name in ("iqm", "std", "min", "max"))
        lines.append(f"  {'':<26}{'mean':>11}  {'95 % interval':<22}{columns}")
        lines += [*self.headline.lines(self.episodes), _row("return", self.returns), self.failure.line()]
        lines.append(_row("length (control steps)", self.length))
        lines += [_row(f"reward {k}", v) for k, v in self.terms.items()]
        lines += [_row(f"cost {k}", v) for k, v in self.costs.items()]
        for name, kinds in self.metrics.items():
            lines += [_row(f"{name} ({kind})", v) for kind, v in kinds.items()]
            if (count := min((v.count for v in kinds.values()), default=0)) < self.episodes:
                lines.append(f"  {name}: counted in {count or 'fewer than 2'} of {self.episodes} episodes")
        lines.append(f"  terminated {self.terminated} of {self.episodes}, broken simulations {self.bad}")
        if self.limits:
            lines += [HEADER, *(verdict.text(name) for name, verdict in self.limits.items())]
        if self.stochastic is not None:
            sampled = self.stochastic
            lines.append("  actions drawn around the mean, as in training:")
            lines += [*sampled.headline.lines(self.episodes), _row("return", sampled.returns)]
            lines += [verdict.line(name) for name, verdict in sampled.limits.items()]
        if self.filtered is not None:
            lines += self.filtered.lines(self.episodes)
        if self.versus_torch is not None:
            v = self.versus_torch
            lines.append(f"  ONNX minus torch: {_difference(v)}")
        if self.verdict is not None:
            lines.append(f"  verdict on the file: {self.verdict}")
        return "\n".join(lines)


def _difference(x: Summary) -> str:
    return f"{x.mean:+.4g} in return, 95 % interval [{x.low:.4g}, {x.high:.4g}]"


def judged(limits: Mapping[str, Verdict], filtered: Through | None) -> dict[str, Verdict]:
    """All verdicts on a file, by "NAME" of the limit and, with a filter, "NAME through the filter"."""
    through = filtered.limits if filtered else {}
    return {**limits, **{f"{name} through the filter": verdict for name, verdict in through.items()}}


def _row(name: str, s: Summary) -> str:
    interval = bounds(s.low, s.high)
    return (
        f"  {name:<26}{s.mean:>11.4g}  {interval:<22}{s.iqm:>11.4g}{s.std:>11.4g}{s.min:>11.4g}{s.max:>11.4g}"
    )
