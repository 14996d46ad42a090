"""Formats of the text tables of verdicts."""

from robokit.evaluation.statistics import Estimate, Pooled, Share

HEADER = f"  {'limit':<38}{'measured':>10}  {'95 % bounds':<22}{'limit':>10}"


def bounds(low: float, high: float) -> str:
    return f"[{low:.4g}, {high:.4g}]"


def with_bounds(x: Estimate | Pooled) -> str:
    return f"{x.value:.4g} {bounds(x.low, x.high)}"


def counted(x: Share) -> str:
    return f"{x.count} of {x.episodes}: {100 * x.value:.3g} % [{100 * x.low:.3g}, {100 * x.high:.3g}]"
