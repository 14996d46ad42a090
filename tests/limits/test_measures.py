"""Every measure of a limit against plain loops over episodes, in one process and in two.

`torchrun test_measures.py FOLDER` runs the part of each of the two processes.
"""

import itertools
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robokit.compute import processes
from robokit.errors import OptionError, TaskError
from robokit.evaluation.ledger import Ledger, measured, weighted
from robokit.evaluation.reports.verdict import judge
from robokit.limits.charges import Charges, Maxima
from robokit.limits.limit import Limit
from robokit.limits.measures import MEASURES, Name
from robokit.limits.meter import Meter
from robokit.limits.multipliers import Multipliers

SIMULATIONS, T, GAMMA, LONGEST = 8, 200, 0.9, 20
Costs = list[list[float]]  # of episodes, control step by control step
TRAINED: list[Name] = [name for name, measure in MEASURES.items() if not measure.untrained]


def worst_tenth(sums: list[float]) -> float:
    """By hand: the worst E / 10, the last of them counted in part."""
    left, found = len(sums) / 10, 0.0
    for x in sorted(sums, reverse=True):
        found += min(1.0, max(left, 0.0)) * x
        left -= 1
    return found / (len(sums) / 10)


LOOPS: dict[str, Callable[[Costs], float]] = {
    "rate": lambda episodes: statistics.mean(c for costs in episodes for c in costs),
    "episode": lambda episodes: statistics.mean(sum(costs) for costs in episodes),
    "discounted": lambda episodes: statistics.mean(
        sum(GAMMA**t * c for t, c in enumerate(costs)) for costs in episodes
    ),
    "probability": lambda episodes: statistics.mean(any(c > 0 for c in costs) for costs in episodes),
    "peak": lambda episodes: statistics.mean(max(costs) for costs in episodes),
    "cvar": lambda episodes: worst_tenth([sum(costs) for costs in episodes]),
}


def drawn() -> tuple[Tensor, Tensor]:
    """Costs (T, N), half of them 0, and where episodes end; all end together at first and at last."""
    generator = torch.Generator().manual_seed(0)
    size = T, SIMULATIONS
    cost = torch.rand(size, generator=generator) * (torch.rand(size, generator=generator) < 0.5)
    done = torch.rand(size, generator=generator) < 0.15
    done[[0, -1]] = True
    return cost, done


def episodes(cost: Tensor, done: Tensor) -> Costs:
    """All but the first of each simulation, of which nobody knows when it began."""
    found: Costs = []
    for costs, ends in zip(cost.T.tolist(), done.T.tolist(), strict=True):
        cuts = [t + 1 for t, end in enumerate(ends) if end]
        found += [costs[begin:end] for begin, end in itertools.pairwise(cuts)]
    return found


def limit(name: Name) -> Limit:
    return Limit(0.1, name)


def metered(cost: Tensor, done: Tensor) -> Tensor:
    """J (K,) of every measure that can be trained, from this process's simulations in all."""
    limits, n = {name: limit(name) for name in TRAINED}, cost.shape[1]
    maxima, meter = Maxima(limits, n), Meter(limits, n, LONGEST, GAMMA)
    none, still = torch.zeros(n), torch.zeros(n, dtype=torch.bool)
    charged = [
        maxima.step(c[:, None].repeat(1, len(TRAINED)), end, none[:, None])[0]
        for c, end in zip(cost, done, strict=True)
    ]
    meter.measure(torch.stack(charged[:1]), still[None], done[:1], none[None])
    rest = T - 1
    values, known = meter.measure(
        torch.stack(charged[1:]), still.expand(rest, n), done[1:], none.expand(rest, n)
    )
    assert known.all()
    return values


def ledgered(cost: Tensor, done: Tensor) -> Tensor:
    """(M,) of every measure by the ledger, one simulation for each of the episodes."""
    rows = episodes(cost, done)
    ledger = Ledger({name: limit(name) for name in MEASURES}, len(rows), GAMMA)
    none, still = torch.zeros(len(rows)), torch.zeros(len(rows), dtype=torch.bool)
    for t in range(max(map(len, rows))):
        now = torch.tensor([row[t] if t < len(row) else math.nan for row in rows], dtype=torch.float64)
        running = torch.tensor([t < len(row) for row in rows])
        ledger.add(now[:, None].expand(-1, len(MEASURES)), running, still, none)
    return torch.tensor(
        [measured(name, costs) for name, costs in zip(MEASURES, ledger.costs().values(), strict=True)]
    )


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_is_what_a_plain_loop_over_episodes_says(name: Name):
    cost, done = drawn()
    expected = LOOPS[name](episodes(cost, done))
    assert ledgered(cost, done)[[*MEASURES].index(name)].item() == pytest.approx(expected)
    if name in TRAINED:
        assert metered(cost, done)[TRAINED.index(name)].item() == pytest.approx(expected)


@pytest.mark.medium
def test_two_processes_measure_what_one_with_all_simulations_does(tmp_path: Path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    done = subprocess.run(
        [*command, "--standalone", __file__, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    cost, ends = drawn()
    one, two, other = metered(cost, ends), *(load_file(tmp_path / str(rank)) for rank in (0, 1))
    assert torch.equal(two["metered"], other["metered"])
    torch.testing.assert_close(two["metered"], one)
    for rank, state in enumerate((two, other)):  # each judges the episodes that it has run
        half = episodes(cost.chunk(2, 1)[rank], ends.chunk(2, 1)[rank])
        expected = torch.tensor([LOOPS[name](half) for name in MEASURES])
        torch.testing.assert_close(state["ledgered"].float(), expected)


# -- a peak --------------------------------------------------------------------------------------------


def test_the_rise_of_the_running_maximum_by_hand():
    maxima = Maxima({"heat": Limit(0.1), "jolt": Limit(0.1, "peak", largest=4.0)}, 1)
    seen, rises = list[list[float]](), list[list[float]]()
    for jolt, done in ((1.0, False), (3.0, False), (2.0, True), (0.5, False)):
        before = maxima.append(torch.tensor([[7.0]]))
        cost, final = maxima.step(torch.tensor([[0.2, jolt]]), torch.tensor([done]), torch.tensor([[8.0]]))
        seen += [before[0].tolist(), final[0].tolist()]
        rises += cost.tolist()
    assert [rise for _, rise in rises] == [1.0, 2.0, 0.0, 0.5]
    assert [heat for heat, _ in rises] == pytest.approx([0.2] * 4)
    assert seen == [
        *([7.0, 0.0], [8.0, 0.25]),
        *([7.0, 0.25], [8.0, 0.75]),
        *([7.0, 0.75], [8.0, 0.75]),  # what the episode ended with
        *([7.0, 0.0], [8.0, 0.125]),
    ]


def test_without_a_peak_critics_get_the_very_tensors():
    maxima, state, cost = Maxima({"heat": Limit(0.1)}, 2), torch.ones(2, 3), torch.ones(2, 1)
    assert maxima.append(state) is state and not maxima.widths
    charged, final = maxima.step(cost, torch.ones(2, dtype=torch.bool), state)
    assert charged is cost and final is state


def test_the_maxima_continue_from_their_state():
    limits = {"jolt": Limit(0.1, "peak")}
    one, other, never = Maxima(limits, 2), Maxima(limits, 2), torch.zeros(2, dtype=torch.bool)
    one.step(torch.tensor([[0.5], [0.25]]), never, torch.zeros(2, 1))
    other.load_state_dict(one.state_dict())
    assert other.step(torch.full((2, 1), 0.5), never, torch.zeros(2, 1))[0].tolist() == [[0.0], [0.25]]


def test_critics_learn_a_rise_as_it_is():
    cost, over = Charges({"jolt": Limit(0.1, "peak")}).learned(
        torch.tensor([[0.5]]), torch.tensor([True]), torch.tensor([3.0]), gamma=0.9
    )
    assert (cost.item(), over.item()) == (0.5, True)


def test_a_peak_cannot_be_absorbed_and_is_at_most_the_largest_cost():
    with pytest.raises(TaskError, match=r"absorb has no meaning for a peak: .* last control step"):
        Limit(0.1, "peak", absorb=0.5)
    with pytest.raises(TaskError, match="a peak cannot come above 4"):
        Limit(4.5, "peak", largest=4.0)


# -- a conditional value at risk -----------------------------------------------------------------------


def test_no_multiplier_follows_a_cvar_and_the_error_says_what_does():
    limits = {"heat": Limit(0.1), "speed": Limit(25.0, "cvar")}
    with pytest.raises(
        OptionError, match=r"limits\['speed'\]: no multiplier holds a cvar: .* --limit-rule off"
    ):
        Multipliers(limits, steps=1000, gamma=0.99)


def test_a_cvar_of_a_sum_that_cannot_come_is_refused():
    with pytest.raises(TaskError, match="a sum of 20 control steps cannot come above 20"):
        Limit(21.0, "cvar").check(steps=20)


def test_a_measure_nobody_knows_is_refused_with_the_nearest_name():
    with pytest.raises(TaskError, match="got 'peaks'; did you mean 'peak'"):
        Limit(0.1, "peaks")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_has_words_and_a_verdict_that_tells_its_value(name: Name):
    cost, done = drawn()
    rows = episodes(cost, done)
    ledger = Ledger({"heat": limit(name)}, len(rows), GAMMA)
    for t in range(max(map(len, rows))):
        now = torch.tensor([[row[t] if t < len(row) else 0.0] for row in rows])
        running = torch.tensor([t < len(row) for row in rows])
        ledger.add(now, running, torch.zeros(len(rows), dtype=torch.bool), torch.zeros(len(rows)))
    costs, steps = ledger.costs()["heat"], max(map(len, rows))
    verdict = judge(limit(name), costs, steps, GAMMA)
    m = verdict.measured
    assert m.value == pytest.approx(measured(name, costs), rel=1e-9) and verdict.verdict == "FAIL"
    assert 0 <= m.low <= m.at_least <= m.value <= m.at_most <= m.high <= limit(name).most(steps, GAMMA)
    assert (
        verdict.line("heat").startswith(f"  heat, {MEASURES[name].words}  ")
        and len(MEASURES[name].words) < 24
    )
    single = MEASURES[name].each
    assert (f"P({single} > 0.1)" in verdict.text("heat")) == bool(single)
    if verdict.above is not None:
        assert verdict.above.value == np.mean(weighted(name, costs)[0] > 0.1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes.joined():
        own = [x.chunk(2, 1)[processes.rank()] for x in drawn()]
        save_file(
            {"metered": metered(*own), "ledgered": ledgered(*own)}, Path(sys.argv[1]) / str(processes.rank())
        )
