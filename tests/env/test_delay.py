"""Delays of readings, compared with explicit histories."""

from itertools import pairwise

import pytest
import torch
from cart import PERIODS, Still, actions, new
from sensors import DT, hits, play
from torch import Tensor

from robokit.sim.base import Sim
from robokit.task.sense import Sense


def late(history: list[Tensor], steps: float) -> Tensor:
    """What was true `steps` control steps ago, by the episode's whole history; at first its beginning."""
    whole, part = int(steps), steps - int(steps)
    newer, older = (history[max(len(history) - 1 - back, 0)] for back in (whole, whole + 1))
    return (1 - part) * newer + part * older


@pytest.mark.parametrize(
    ("delay", "readings"),
    [(0.04, [0, 0, 0, 1, 4, 7, 7, 7, 8]), (0.01, [0, 0.5, 2.5, 6.5, 12.5, 7, 7.5, 9, 11.5])],
)
def test_a_late_reading_by_hand(delay: float, readings: list[float]):
    """Two episodes; of the first nothing is left in the second."""
    truth = torch.tensor([0.0, 1.0, 4.0, 9.0, 16.0, 7.0, 8.0, 10.0, 13.0])[:, None, None]
    seen = play({"a": 1}, truth, hits(9, 1, {5: slice(None)}), a=Sense(delay=delay))
    assert seen.flatten().tolist() == readings


@pytest.mark.parametrize("delay", [0.06, 0.05, 1.0, (0.02, 0.09), (0.0, 1.0)])
def test_late_readings_are_those_of_a_loop_over_whole_histories(delay: float | tuple[float, float]):
    """Each term's first number counts the episode's steps, which tells its delay at the episode's end."""
    steps, n = 180, 6
    begins = hits(steps, n, {60: slice(0, 3), 71: slice(3, 6), 120: slice(0, 3), 131: slice(2, 6)})
    truth = torch.randn(steps, n, 5)
    for i in range(n):
        for t in range(steps):
            truth[t, i, 0] = truth[t, i, 3] = 0.0 if begins[t, i] else truth[t - 1, i, 0] + 1
    seen = play({"a": 2, "exact": 1, "b": 2}, truth, begins, a=Sense(delay=delay), b=Sense(delay=delay))
    assert torch.equal(seen[..., 2], truth[..., 2])
    drawn = []
    for i in range(n):
        starts = [*begins[:, i].nonzero().flatten().tolist(), steps]
        for start, end in pairwise(starts):
            if end - start <= 50:  # too short to tell
                continue
            ago = truth[end - 1, i, [0, 3]] - seen[end - 1, i, [0, 3]]
            drawn += ago.tolist()
            for t in range(start, end):
                for column, steps_ago in zip(([0, 1], [3, 4]), ago.tolist(), strict=True):
                    expected = late(list(truth[start : t + 1, i, column]), steps_ago)
                    assert torch.allclose(seen[t, i, column], expected, atol=2e-4)
    low, high = (x / DT for x in (delay if isinstance(delay, tuple) else (delay, delay)))
    assert low - 1e-4 <= min(drawn) and max(drawn) <= high + 1e-4
    assert len({round(x, 2) for x in drawn}) == (1 if low == high else len(drawn))
    assert max(drawn) - min(drawn) >= 0.6 * (high - low)


def test_a_delay_draws_its_whole_range_evenly():
    truth = torch.arange(6.0)[:, None, None].expand(-1, 4000, 1)
    ago = 5 - play({"a": 1}, truth, a=Sense(delay=(0.02, 0.08)))[5]
    assert 1.0 <= ago.min() < 1.01 and 3.99 < ago.max() <= 4.0
    assert ago.mean().item() == pytest.approx(2.5, abs=0.05)


def test_noise_and_bias_are_the_sensors_own_and_come_at_once():
    """A reading is late truth, and the bias of this episode, and the noise of now."""
    truth, begins = torch.zeros(40, 500, 1), hits(40, 500, {20: slice(None)})
    truth[20:] = 100.0
    bias, noisy = (
        play({"a": 1}, truth, begins, a=s)
        for s in (Sense(bias=1.0, delay=0.1), Sense(bias=1.0, delay=0.1, noise=0.5))
    )
    off = bias - truth
    assert off[20:].abs().max() <= 1.001 and off[20, 0] == off[39, 0] != off[19, 0]
    noise = (noisy - noisy.reshape(2, 20, 500).mean(1).repeat_interleave(20, 0)[..., None]).flatten(1)
    assert noise.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs((noise[1:20] * noise[:19]).mean().item()) < 0.05  # not the noise of some steps ago again


def test_a_number_that_is_not_late_is_not_touched_by_what_was_not_finite():
    truth = torch.ones(5, 1, 2)
    truth[1] = torch.inf
    seen = play({"a": 1, "b": 1}, truth, b=Sense(delay=0.06))
    assert seen[2:, 0, 0].tolist() == [1.0, 1.0, 1.0]


class Late(Still):
    """Without a draw but for its delays."""

    sensing = {"slide": Sense(delay=(0.0, 0.1)), "tip": Sense(delay=0.03)}

    def terminated(self, sim: Sim) -> Tensor:
        return (sim.qpos[:, 0] > 0.05) & (sim.memory["age"][:, 0] > 8)


def test_an_environment_reads_late_across_restarts():
    """Term "tip" against the whole history of the critic's truth, in final_obs and in obs."""
    env = new(Late, 4)
    tip, ends = slice(2, 5), 0
    histories = [[row] for row in env.state[:, tip]]
    for action in actions(3 * PERIODS, 4, seed=5):
        step = env.step(action)
        for i, history in enumerate(histories):
            history.append(step.final_state[i, tip])
            assert torch.allclose(step.final_obs[i, tip], late(history, 1.5), atol=1e-6)
            if step.done[i]:
                ends += int(step.terminated[i])
                history[:] = [step.state[i, tip]]
            assert torch.allclose(step.obs[i, tip], late(history, 1.5), atol=1e-6)
    assert ends > 2
