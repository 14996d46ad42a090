"""Plots of a run and of its evaluation, as PNG files: `robokit evaluate RUN --plots FOLDER`.

    learning.png      return, and each limit's measured cost with the limit
    multipliers.png   each limit's multiplier
    costs.png         each cost in the evaluated episodes, with the limit
    success.png       share of the episodes with success, by region of the goals

No screen is needed. matplotlib takes a second to import, and is imported only to draw.
"""

import math
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robokit.console import say
from robokit.disk.lines import lines_of
from robokit.disk.read import read_bytes
from robokit.errors import DataError, OptionError, RunError, reason, require
from robokit.evaluation.reports.report import Report
from robokit.evaluation.reports.verdict import Verdict
from robokit.evaluation.statistics import Array
from robokit.limits.measures import MEASURES
from robokit.training.log import METRICS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, BLACK = "#0072B2", "#D55E00", "#000000"  # Okabe & Ito: distinct for the colour-blind too
WIDTH, ROW = 7.5, 2.3  # inches
DPI = 130
Curve = tuple[Array, Array]  # environment steps, values


def writable(folder: Path) -> Path:
    """The folder, created if missing. Raises OptionError if it is not writable, or without matplotlib."""
    require("matplotlib", "show")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"cannot write plots into {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(f"cannot write plots into {folder}: no permission")
    return folder


def draw(folder: Path, report: Report, run: Path | None = None) -> list[Path]:
    """Write costs.png if there are limits, success.png if there is a goal, a run's curves; the paths."""
    figures: dict[str, Figure] = {}
    if run is not None:
        curves = read_curves(run / METRICS)
        figures["learning"] = learning(curves, report.limits)
        if any(_key(name, "lambda") in curves for name in report.limits):
            figures["multipliers"] = multipliers(curves, report.limits)
    if report.limits:
        figures["costs"] = costs(report)
    if report.goal and _spread(report):
        figures["success"] = success(report)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        figure.savefig(path, dpi=DPI)
    return paths


def read_curves(path: Path) -> dict[str, Curve]:
    """Metric -> (environment steps, values) from a run's metrics.jsonl; a line tells of each damaged one.

    Raises RunError if it cannot be read.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    try:
        content = read_bytes(path)
    except (OSError, DataError) as error:
        raise RunError(f"cannot read {path}: {reason(error, path)}") from error
    for number, (_, metrics) in enumerate(lines_of(content), 1):
        if metrics is None:
            say(f"note: line {number} of {path} is damaged, and left out")
            continue
        for name, value in metrics.items():
            points.setdefault(name, []).append((metrics["steps"], value))
    arrays = {name: np.array(pairs, dtype=np.float64) for name, pairs in points.items()}
    return {name: (pairs[:, 0], pairs[:, 1]) for name, pairs in arrays.items()}


def learning(curves: Mapping[str, Curve], limits: Mapping[str, Verdict]) -> "Figure":
    """Figure of "episode/return" over environment steps, and below it "limit/<name>/measured", if logged."""
    names = [name for name in limits if _key(name, "measured") in curves]
    figure, axes = _rows(1 + len(names))
    _curve(axes[0], curves.get("episode/return"), "return")
    for axis, name in zip(axes[1:], names, strict=True):
        limit = limits[name]
        _curve(axis, curves[_key(name, "measured")], f"{name}\n{MEASURES[limit.measure].words}")
        _line(axis.axhline, limit.limit, "limit", BLACK, "--")
        axis.set_ylim(bottom=0)
        axis.legend(loc="best")
    axes[0].set_title("Training, with sampled actions")
    axes[-1].set_xlabel("environment steps")
    return figure


def multipliers(curves: Mapping[str, Curve], limits: Mapping[str, Verdict]) -> "Figure":
    """Figure of each logged multiplier, "limit/<name>/lambda", over environment steps."""
    names = [name for name in limits if _key(name, "lambda") in curves]
    figure, axes = _rows(len(names))
    for axis, name in zip(axes, names, strict=True):
        _curve(axis, curves[_key(name, "lambda")], f"{name}\nmultiplier λ\n(reward per cost)")
        axis.set_ylim(bottom=0)
    axes[0].set_title("Price of a unit of each cost")
    axes[-1].set_xlabel("environment steps")
    return figure


def costs(report: Report) -> "Figure":
    """Figure with a histogram of the `episode_costs` of each limit, the measured value and the limit."""
    figure, axes = _rows(len(report.limits), share=False)
    for axis, (name, limit) in zip(axes, report.limits.items(), strict=True):
        x = episode_costs(report, name)
        measure = MEASURES[limit.measure]
        counts, edges = np.histogram(x, 2 * math.isqrt(len(x)), (0.0, float(x.max()) or 1.0))
        axis.stairs(counts, edges, fill=True, color=BLUE)
        axis.set_ylabel(f"of {len(x)} episodes")
        axis.locator_params(axis="y", integer=True)
        axis.set_xlabel(f"{name}, {measure.shown or measure.words}")
        if measure.share:
            bound = f"limit {limit.limit:g}: {limit.verdict}"
            axis.set_title(f"above 0 in {limit.measured.value:.3g} of the episodes, {bound}")
        else:
            _line(axis.axvline, limit.measured.value, "measured", VERMILLION, "-")
            _line(axis.axvline, limit.limit, "limit", BLACK, "--")
            axis.legend(loc="best", title=limit.verdict)
    return figure


def success(report: Report) -> "Figure":
    """Figure of the share of episodes with success in cells of the goals, for each pair of their numbers.

    Crosses: goals without success. With one number that varies the cells are a row.
    """
    varied, held = _spread(report), report.numbers("success")
    pairs = [*combinations(varied, 2)] or [(*varied, *varied)]
    figure, axes = _rows(len(pairs), share=False)
    figure.set_size_inches(WIDTH, 1.6 * ROW * len(pairs))
    axes[0].set_title(f"Share of episodes with success, unit of the goals: {(report.goal or {})['unit']}")
    for axis, (one, two) in zip(axes, pairs, strict=True):
        x, y = report.numbers(one), report.numbers(two) if one != two else np.zeros_like(held)
        shares, *edges = success_map(x, y, held)
        mesh = axis.pcolormesh(*edges, shares.T, vmin=0, vmax=1, cmap="cividis")
        axis.plot(x[held == 0], y[held == 0], "x", color=VERMILLION, markersize=4)
        axis.set_xlabel(one.removeprefix("goal/"))
        axis.set_ylabel(two.removeprefix("goal/") if one != two else "")
        figure.colorbar(mesh, ax=axis)
    return figure


def success_map(x: Array, y: Array, held: Array) -> tuple[Array, Array, Array]:
    """(shares (nx, ny), edges (nx + 1,), edges (ny + 1,)) of held (E,), 0 or 1, at points x, y (E,).

    About ten points to a cell; NaN: a cell without. Of an axis that does not vary there is one cell.
    """
    n = max(2, round(math.sqrt(len(x) / 10)))
    bins = [n if np.ptp(one) > 0 else 1 for one in (x, y)]
    count, *edges = np.histogram2d(x, y, bins)
    found, *_ = np.histogram2d(x, y, edges, weights=held)
    return found / np.where(count, count, np.nan), edges[0], edges[1]


def _spread(report: Report) -> list[str]:
    """The numbers of the goal that differ between episodes, as "goal/target[0]"."""
    names = [name for name in report.per_episode if name.startswith("goal/")]
    return [name for name in names if np.ptp(report.numbers(name)) > 0]


def episode_costs(report: Report, name: str) -> Array:
    """The cost of each episode (E,) in the limit's measure (rate: per step; probability: the sum)."""
    measure, kept = MEASURES[report.limits[name].measure], report.episode_costs(name)
    x, weight = (kept.total, None) if measure.share else measure.per_episode(kept)
    return x if weight is None else x / weight


def _key(name: str, what: str) -> str:
    return f"limit/{name}/{what}"


def _rows(count: int, share: bool = True) -> "tuple[Figure, Sequence[Axes]]":
    from matplotlib.figure import Figure  # without pyplot: the Agg canvas, no window
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(WIDTH, ROW * count + 0.4), layout="constrained")
    axes = figure.subplots(count, 1, sharex=share, squeeze=False)[:, 0]
    for axis in axes:
        plain(axis)
        if share:
            axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 2M
    figure.align_ylabels()
    return figure, list(axes)


def plain(axis: "Axes") -> None:
    """A light grid behind the curves, and no frame."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def _curve(axis: "Axes", curve: Curve | None, label: str) -> None:
    axis.set_ylabel(label)
    if curve is not None:
        axis.plot(*curve, color=BLUE, linewidth=1.2)


def _line(draw: Any, at: float, what: str, color: str, style: str) -> None:
    draw(at, color=color, linestyle=style, linewidth=1.5, label=f"{what} {at:.4g}")
