"""The picture of a learned model's quality: `robokit dynamics RUN -o FOLDER`.

A panel for each sensed term, error over imagined steps beside the two that know nothing; then the intervals
of each output, and the inverse model's R^2 by assumed delay.
"""

from pathlib import Path
from typing import Any

from robokit.dynamics.calibration import INTERVALS, Quality
from robokit.show.plots import BLACK, BLUE, DPI, ROW, VERMILLION, WIDTH, plain

ACROSS = 3  # panels in a row, at most
STYLES = {  # kind of error -> label, colour, style
    "model": ("the model", BLUE, "-"),
    "still": ("no change at all", BLACK, ":"),
    "velocity": ("on as in the last step", VERMILLION, "--"),
}


def draw_quality(quality: Quality, path: Path) -> None:
    """Write the picture as PNG."""
    from matplotlib.figure import Figure  # without pyplot: the Agg canvas, no window

    loop, names = quality.open_loop, [*quality.outputs]
    terms = [name for name in names if loop and name in next(iter(loop.values()))]
    number = len(terms) + 2
    rows = -(-number // ACROSS)
    figure = Figure(figsize=(1.5 * WIDTH, ROW * rows + 0.8), layout="constrained")
    cells, counts = figure.add_gridspec(rows, 6), [len(range(row, number, rows)) for row in range(rows)]
    at = [cells[row, 6 * i // n : 6 * (i + 1) // n] for row, n in enumerate(counts) for i in range(n)]
    panels: list[Any] = [figure.add_subplot(cell) for cell in at]  # each row is filled
    for axis in panels:
        plain(axis)
    for axis, term in zip(panels, terms, strict=False):
        for kind, (label, color, style) in STYLES.items():
            pairs = [(h, found[term][kind]) for h, found in loop.items() if found[term][kind] is not None]
            axis.plot(*zip(*pairs, strict=True), style, color=color, marker="o", markersize=3, label=label)
        axis.set(xscale="log", yscale="log", title=term, xlabel="imagined steps", ylabel="error / deviation")
        axis.set_xticks([*loop], labels=[*map(str, loop)])
        axis.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    if terms:
        lines, labels = panels[0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside upper left", ncols=3, title="predicted by")
    inside, late = panels[len(terms) :]
    for percent, color in zip(INTERVALS, (BLUE, VERMILLION), strict=True):
        shares = [quality.outputs[name][f"within_{percent}"] for name in names]
        inside.plot(shares, range(len(names)), "o", color=color, label=f"in the {percent} % interval")
        inside.axvline(int(percent) / 100, color=color, linewidth=1, linestyle="--")
    inside.set(xlim=(0, 1), yticks=range(len(names)), yticklabels=names)
    inside.set_xlabel("share of steps; dashed: as it should be")
    inside.invert_yaxis()
    inside.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    late.bar(range(len(quality.delays)), quality.delays, color=BLUE)
    late.set(title="trace of the action", xlabel="assumed delay, control steps", ylabel="R² of inverse model")
    figure.savefig(path, dpi=DPI)
