"""Imagined rollouts from a replay, and the last of their control steps: the batches begin there."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robokit.dynamics.ensemble import deal
from robokit.learning.offpolicy.replay import Replay

ROWS, KEPT = 256, 200  # episodes side by side; their last control steps that are kept
USUAL, MOVING = 0.95, 0.1  # quantile of the disagreement at real frames; weight of a new one


class State(NamedTuple):
    """M imagined episodes before an action."""

    frame: Tensor  # (M, F)
    belief: Tensor  # (M, B) of the policy, before the frame
    critic_belief: Tensor  # (M, B) of the critics, before the frame
    is_first: Tensor  # (M,) bool: the frame begins an episode
    steps_left: Tensor  # (M,) control steps left after the action


class Imagined(NamedTuple):
    """What happened in one imagined control step."""

    action: Tensor  # (M, A)
    log_prob: Tensor  # (M,)
    signal: Tensor  # (M, 1 + K) reward, and costs as critics are charged, / Limit.largest
    over: Tensor  # (M, 1 + K) bool: the return of this column ends
    cost: Tensor  # (M, K) as the environment would give it
    dead: Tensor  # (M,) bool
    doubt: Tensor  # (M,) disagreement, 0 unless it is used


class Ring(Replay):
    """Imagined transitions: a replay that is saved whole."""

    def __init__(self, *of_replay: Any) -> None:
        super().__init__(*of_replay)
        self.rows.zero_()
        self.beliefs.zero_()

    def put(self, rows: Tensor, beliefs: Tensor) -> None:
        """Add a control step: rows (N, C), beliefs (N, B) before it."""
        slot = self.position % self.steps
        self.rows[slot], self.beliefs[slot] = rows, beliefs
        self.position += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"rows": self.rows, "beliefs": self.beliefs, "position": torch.tensor(self.position)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.rows.copy_(state["rows"])
        self.beliefs.copy_(state["beliefs"])
        self.position = int(state["position"])


class Rollouts:
    """Imagined control steps of ROWS episodes side by side, and a ring of the last; saved whole.

    widths, belief_size: of the replay that they start from. start: rows (1, M, C) and beliefs (M, B) of it ->
    State. roll: (State, noise (M, A), wide (M, P), deal) -> (State, rows (M, C), disagreement (M,)).
    most: an episode ends where the disagreement exceeds so many times its running quantile; 0: nowhere.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        belief_size: int,
        start: Callable[[Tensor, Tensor], State],
        roll: Callable[..., tuple[State, Tensor, Tensor]],
        members: int,
        most: float,
        device: torch.device,
    ) -> None:
        self.ring = Ring(widths, belief_size, ROWS, ROWS * KEPT, device)
        self.start, self.roll, self.most = start, roll, most
        self.usual = torch.zeros((), device=device)
        self.deals = [deal(ROWS, members, turn, device) for turn in range(members)]
        columns = zip(widths, torch.tensor([0, *widths.values()]).cumsum(0).tolist(), strict=False)
        self.dead = dict(columns)["terminated"]

    def go(self, replay: Replay, noise: Tensor, wide: Tensor, rng: torch.Generator) -> Tensor:
        """T control steps from frames of the replay, by noise (T, ROWS, A) and wide (T, ROWS, P).

        An episode that ends goes on from another frame of the replay. Returns the share of steps that end
        one.
        """
        state, stopped = self.start(*replay.sample(ROWS, 1, rng)), []
        for t, given in enumerate(zip(noise, wide, strict=True)):
            beliefs = torch.cat((state.belief, state.critic_belief), -1)
            after, rows, doubt = self.roll(state, *given, self.deals[t % len(self.deals)])
            self.ring.put(rows, beliefs)
            stop = rows[:, self.dead] > 0
            if self.most:
                if t == 0:
                    now, before = torch.quantile(doubt, USUAL), self.usual
                    before.copy_(torch.where(before > 0, before.lerp(now, MOVING), now))
                stop = stop | (doubt > self.most * self.usual)
            pairs = zip(self.start(*replay.sample(ROWS, 1, rng)), after, strict=True)
            state = State(*(torch.where(stop if a.dim() == 1 else stop[:, None], a, b) for a, b in pairs))
            stopped.append(stop.float().mean())
        return torch.stack(stopped).mean()

    def state_dict(self) -> dict[str, Tensor]:
        return {**self.ring.state_dict(), "usual": self.usual}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.ring.load_state_dict(state)
        self.usual.copy_(state["usual"])
