"""What a planner rolls forward: copies of the played simulation, or any object with this interface."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from robokit.env.env import Env
from robokit.learning.protocols import Actor
from robokit.limits.charges import Charges


class Model(Protocol):
    """n imagined simulations of one task."""

    def start(self, rows: Tensor) -> None:
        """Begin imagined simulation i in the present state of the played one `rows[i]`; rows (n,)."""

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One control step with actions (n, A): reward (n,), cost (n, K), and (n,) bool: it goes on."""
        ...


class TrueModel:
    """The simulator itself: `samples` copies of each simulation of `played`, with the same random numbers.

    The costs have `absorb` for the control steps that a termination cuts off. look: `obs` and `state` are
    those that the present state would show. seed: of what is drawn in the copies; not the played one's.
    compile: as of Env; the first plan waits for it, so it is for very many.
    """

    def __init__(
        self,
        played: Env,
        samples: int,
        *,
        seed: int = 0,
        threads: int = 0,
        look: bool = False,
        compile: bool = False,
    ) -> None:
        own: dict[str, Any] = {"sim": played.sim.engine, "nominal": played.nominal}
        own |= {"threads": threads, "compile": compile}
        number = samples * played.num_envs
        self.env = Env(played.task, number, seed=seed, device=played.device, blocks=samples, **own)
        self.played, self.look = played, look
        self._charges = Charges(played.task.limits, self.env.sim.device)
        self._absorbs = any(limit.absorb for limit in played.task.limits.values())

    @property
    def obs(self) -> Tensor:
        """(n, O)."""
        return self.env.obs

    @property
    def state(self) -> Tensor:
        """(n, S)."""
        return self.env.state

    def start(self, rows: Tensor) -> None:
        self.env.copy(self.played, rows)

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        now = self.env.advance(action, self.look)
        if not self._absorbs:
            return now.reward, now.cost, ~now.terminated
        cost = self._charges.of(now.cost, now.terminated, now.steps_left, 1.0).total
        return now.reward, cost, ~now.terminated


class Guide:
    """A trained policy beside a planner: its actions are among the samples, and its critic ends each.

    samples: how many rollouts follow the policy, the first exactly, others with a sample's noise. value: of
    (obs, state) of n rows, (n,); None: no critic. The model must have `obs` and `state`. M: played ones.
    """

    def __init__(
        self,
        policy: Actor,
        samples: int,
        played: int,
        value: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.policy, self.samples, self.value = policy, samples, value
        self.belief = torch.zeros(played, policy.belief_size)
        self.is_first = torch.ones(played, dtype=torch.bool)

    def begin(self, rows: Tensor) -> None:
        """Begin imagined simulations at the played ones' beliefs; rows (n,), the policy's first."""
        own = rows[: self.samples * len(self.belief)]
        self._belief, self._is_first = self.belief[own], self.is_first[own]

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions of the first rows of obs (n, O), in [-1, 1], with noise (n, A) but in the first M."""
        count = len(self._belief)
        action, self._belief = self.policy(obs[:count], self._belief, self._is_first)
        self._is_first = torch.zeros_like(self._is_first)
        more = torch.cat((torch.zeros_like(noise[: len(self.belief)]), noise[len(self.belief) : count]))
        return (action + more).clamp(-1.0, 1.0)

    def follow(self, obs: Tensor, done: Tensor) -> None:
        """After a played control step from obs (M, O): the next beliefs."""
        self.belief, self.is_first = self.policy(obs, self.belief, self.is_first)[1], done


def rollout(
    model: Any, actions: Tensor, mean: Tensor, rows: Tensor, gamma: float, guide: Any = None
) -> tuple[Tensor, Tensor]:
    """Returns (n,) and costs (H, n, K) of plans (H, n, A) from played simulations `rows` (n,).

        sum_t gamma^t r_t + gamma^H V,    t < H, up to the control step in which a simulation ends

    Writes a guide's actions into `actions`; their noise is what `actions` lie beside `mean` (H, n, A).
    """
    model.start(rows)
    rewards, costs, going = list[Tensor](), list[Tensor](), [torch.ones(len(rows), dtype=torch.bool)]
    if guide is not None:
        guide.begin(rows)
    for t, action in enumerate(actions):
        if guide is not None:
            own = guide.act(model.obs, action - mean[t])
            action[: len(own)] = own
        reward, cost, goes_on = model.step(action)
        rewards.append(reward)
        costs.append(cost)
        going.append(going[-1] & goes_on)
    until = torch.stack(going[:-1])
    discount = gamma ** torch.arange(len(actions))[:, None]
    total = (discount * torch.where(until, torch.stack(rewards), 0.0)).sum(0)
    if guide is not None and guide.value is not None:
        total += gamma ** len(actions) * torch.where(going[-1], guide.value(model.obs, model.state), 0.0)
    return total, torch.where(until[..., None], torch.stack(costs), 0.0)
