"""The delay of the actions is found in a recording, though a policy chose them by the state."""

import pytest
import torch
from torch import Tensor

from robokit.dynamics import inverse
from robokit.dynamics.inverse import LONGEST, delay_of, delay_scores


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverse, "STEPS", 250)
    monkeypatch.setattr(inverse, "HIDDEN", (64,))


def recording(delay: int | None, steps: int = 150, rows: int = 60) -> tuple[Tensor, Tensor, Tensor]:
    """s, s', actions (M, K + 1, 1) of a damped mass whose force comes `delay` steps late; None: never.

    The force is -s plus noise that a state alone does not tell.
    """
    rng = torch.Generator().manual_seed(0)
    state, states, chosen = torch.zeros(rows, 2), list[Tensor](), list[Tensor]()
    for t in range(steps):
        states.append(state)
        chosen.append(-state.sum(-1, keepdim=True) + 0.5 * torch.randn(rows, 1, generator=rng))
        force = torch.zeros(rows, 1) if delay is None or t < delay else chosen[t - delay]
        push = 0.3 * force + 0.05 * torch.randn(rows, 1, generator=rng)
        place, speed = state.split(1, -1)
        state = torch.cat((place + 0.1 * speed, 0.9 * speed + push), -1)
    states.append(state)
    times = range(LONGEST, steps)
    actions = torch.stack([torch.stack([chosen[t - k] for k in range(LONGEST + 1)], 1) for t in times])
    before, after = (torch.stack([states[t + i] for t in times]) for i in (0, 1))
    return before.flatten(0, 1), after.flatten(0, 1), actions.flatten(0, 1)


@pytest.mark.parametrize("delay", [0, 1, 3, None])
def test_the_score_peaks_at_the_delay(delay: int | None):
    before, after, actions = recording(delay)
    held = torch.arange(len(before)) % 5 == 0
    torch.manual_seed(0)
    scores = delay_scores(before, after, actions, held, torch.Generator().manual_seed(0))
    assert delay_of(scores) == delay
    if delay is not None:
        assert scores[delay] > 0.7 > 0.3 > max(x for k, x in enumerate(scores) if k != delay)
