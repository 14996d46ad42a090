"""The picture of a learned model's quality: `robokit dynamics RUN -o FOLDER`.

A panel for each sensed term, error over imagined steps beside the two that know nothing; then the intervals
of each output, and the inverse model's R^2 by assumed delay.
"""

from pathlib import Path

from robokit.dynamics.calibration import INTERVALS, Quality
from robokit.show.plots import BLACK, BLUE, DPI, ROW, VERMILLION, WIDTH

ACROSS = 3  # panels in a row
STYLES = (("model", BLUE, "-"), ("still", BLACK, ":"), ("velocity", VERMILLION, "--"))


def draw_quality(quality: Quality, path: Path) -> None:
    """Write the picture as PNG."""
    from matplotlib.figure import Figure  # without pyplot: the Agg canvas, no window

    loop, names = quality.open_loop, [*quality.outputs]
    terms = [name for name in names if loop and name in next(iter(loop.values()))]
    rows = -(-(len(terms) + 2) // ACROSS)
    figure = Figure(figsize=(1.5 * WIDTH, ROW * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, ACROSS, squeeze=False).flatten()
    for axis in grid[: len(terms) + 2]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
    for axis, term in zip(grid, terms, strict=False):
        for kind, color, style in STYLES:
            pairs = [(h, found[term][kind]) for h, found in loop.items() if found[term][kind] is not None]
            axis.plot(*zip(*pairs, strict=True), style, color=color, marker="o", markersize=3, label=kind)
        axis.set(xscale="log", yscale="log", title=term, xlabel="imagined steps", ylabel="error / deviation")
    grid[0].legend(fontsize="small")
    inside, late, *spare = grid[len(terms) :]
    for percent, color in zip(INTERVALS, (BLUE, VERMILLION), strict=True):
        shares = [quality.outputs[name][f"within_{percent}"] for name in names]
        inside.plot(shares, range(len(names)), "o", color=color, label=f"{percent} %")
        inside.axvline(int(percent) / 100, color=color, linewidth=1, linestyle="--")
    inside.set(xlim=(0, 1), title="inside the intervals", yticks=range(len(names)), yticklabels=names)
    inside.legend(fontsize="small")
    late.bar(range(len(quality.delays)), quality.delays, color=BLUE)
    late.set(title="trace of the action", xlabel="assumed delay, control steps", ylabel="R² of inverse model")
    for axis in spare:
        axis.set_axis_off()
    figure.savefig(path, dpi=DPI)
