"""Constrained problems with solutions known on paper, as tasks; the simulator only counts the time."""

import mujoco
import torch
from torch import Tensor

from robokit.limits.limit import Limit
from robokit.sim.base import Sim
from robokit.task.task import Task, Terms

XML = """
<mujoco>
  <worldbody><body><joint name="x" type="slide"/><geom size=".1"/></body></worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1"/><motor joint="x" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


def chosen(action: Tensor) -> Tensor:
    """(N, 3) one-hot: the first number's sign tells the first arm from the rest, the second's those."""
    first, second = (action > 0).unbind(-1)
    return torch.stack((~first, first & ~second, first & second), -1).double()


class Bandit(Task):
    """Three arms with a reward and costs each; a Gaussian in two dimensions can give any chances to them."""

    model = mujoco.MjSpec.from_string(XML)
    control_dt = 0.002  # s
    time_limit = 16 * control_dt
    weights = {"gain": 1.0}
    gains = (0.0, 1.0, 0.0)
    prices: dict[str, tuple[float, float, float]] = {}

    def observe(self, sim: Sim) -> Terms:
        return {"nothing": torch.zeros_like(sim.qpos)}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"gain": chosen(action) @ action.new_tensor(self.gains).double()}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {k: chosen(action) @ action.new_tensor(price).double() for k, price in self.prices.items()}


class Two(Bandit):
    """T1: one arm pays and costs 1. At most .3 of it: lambda = 1."""

    gains = (0.0, 1.0, 0.0)
    prices = {"use": (0.0, 1.0, 0.0)}
    limits = {"use": Limit(0.3)}


class Three(Bandit):
    """T2: two limits that bind and one that does not; on paper chances (.5, .2, .3), lambda (1, 2, 0)."""

    gains = (0.0, 1.0, 2.0)
    prices = {"first": (0.0, 1.0, 0.0), "second": (0.0, 0.0, 1.0), "slack": (0.0, 1.0, 1.0)}
    limits = {"first": Limit(0.2), "second": Limit(0.3), "slack": Limit(0.9)}


def mixed(action: Tensor) -> Tensor:
    """(N, 3) chances that a deterministic action gives to the arms, smooth in it: `chosen` on the average."""
    first, second = ((action.double() + 1) / 2).unbind(-1)
    return torch.stack((1 - first, first * (1 - second), first * second), -1)


class Mixture(Bandit):
    """A bandit that pays and charges what the arms do on the average: for policies that draw nothing."""

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"gain": mixed(action) @ action.new_tensor(self.gains).double()}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {k: mixed(action) @ action.new_tensor(price).double() for k, price in self.prices.items()}


class MixedTwo(Mixture):
    """T1."""

    gains, prices, limits = Two.gains, Two.prices, Two.limits


class MixedThree(Mixture):
    """T2."""

    gains, prices, limits = Three.gains, Three.prices, Three.limits


STATES, LENGTH = 5, 100
GENERATOR = torch.Generator().manual_seed(178)  # of 300 the one where a limit of .6 is dearest
MOVES = torch.softmax(2 * torch.randn(STATES, 3, STATES, generator=GENERATOR, dtype=torch.float64), -1)
PAY = torch.rand(STATES, 3, generator=GENERATOR, dtype=torch.float64)
PRICE = PAY * torch.rand(STATES, 3, generator=GENERATOR, dtype=torch.float64).sqrt()
GOES_ON = 0.6  # chance that an episode goes on after a step: the discount of the textbook


class Tabular(Bandit):
    """T4: five states, three actions, known chances; an episode goes on with chance GOES_ON."""

    time_limit = LENGTH * Bandit.control_dt
    memory = {"place": STATES, "luck": 2}
    limits = {"price": Limit(0.6, "discounted")}

    def reset(self, sim: Sim, rng: torch.Generator) -> Terms:
        start = torch.randint(STATES, (sim.num_envs,), generator=rng)
        return {"place": torch.nn.functional.one_hot(start, STATES).double()}

    def disturb(self, sim: Sim, rng: torch.Generator) -> Terms:
        return {"luck": torch.rand(sim.num_envs, 2, generator=rng, dtype=torch.float64)}

    def observe(self, sim: Sim) -> Terms:
        return {"place": sim.memory["place"].clone()}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"gain": ((sim.memory["place"] @ PAY) * chosen(action)).sum(-1)}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {"price": ((sim.memory["place"] @ PRICE) * chosen(action)).sum(-1)}

    def terminated(self, sim: Sim) -> Tensor:
        return sim.memory["luck"][:, 0] >= GOES_ON

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        chances = torch.einsum("ns,na,sat->nt", sim.memory["place"], chosen(action), MOVES)
        up_to = chances.cumsum(-1)
        place = (sim.memory["luck"][:, 1:] >= up_to).sum(-1).clamp(max=STATES - 1)
        return {"place": torch.nn.functional.one_hot(place, STATES).double()}


def best_within(limit: float) -> float:
    """The greatest return of any policy whose cost is at most `limit`.

    The occupancy measures of all policies are the convex hull of those of the deterministic ones (Altman
    1999, chapter 3): the best lies on a segment between two of their (cost, return) points.
    """
    points = []
    for policy in torch.cartesian_prod(*[torch.arange(3)] * STATES):
        rows = torch.arange(STATES)
        visits = torch.linalg.solve(
            torch.eye(STATES, dtype=torch.float64) - GOES_ON * MOVES[rows, policy].T,
            torch.full((STATES,), 1 / STATES, dtype=torch.float64),
        )
        points.append((float(visits @ PRICE[rows, policy]), float(visits @ PAY[rows, policy])))
    within = [p for p in points if p[0] <= limit]
    beyond = [p for p in points if p[0] > limit]
    mixed = [a[1] + (b[1] - a[1]) * (limit - a[0]) / (b[0] - a[0]) for a in within for b in beyond]
    return max([p[1] for p in within] + mixed)


class Chain(Bandit):
    """T9: a walk along four places that no action changes; costs 1, 2, 0, 4, then it ends."""

    time_limit = 8 * Bandit.control_dt
    memory = {"place": 4}
    limits = {"toll": Limit(1.0, "discounted", largest=4.0), "hit": Limit(0.5, "probability")}
    tolls = (1.0, 2.0, 0.0, 4.0)

    def reset(self, sim: Sim, rng: torch.Generator) -> Terms:
        start = torch.randint(4, (sim.num_envs,), generator=rng)
        return {"place": torch.nn.functional.one_hot(start, 4).double()}

    def observe(self, sim: Sim) -> Terms:
        return {"place": sim.memory["place"].clone()}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"gain": chosen(action)[:, 0]}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        place = sim.memory["place"]
        return {"toll": place @ place.new_tensor(self.tolls), "hit": place[:, 1] + place[:, 3]}

    def terminated(self, sim: Sim) -> Tensor:
        return sim.memory["place"][:, 3] > 0.5

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        return {"place": sim.memory["place"].roll(1, -1)}


class Lqr(Bandit):
    """T3: x' = x + u / 2 from x^2 = 1, reward -x^2, cost u^2: u = -K x, by a Riccati equation.

    Between walls that the best never comes near: where a beginner goes is not unbounded.
    """

    time_limit = 100 * Bandit.control_dt
    memory = {"x": 1}
    weights = {"gain": 1.0}
    limits = {"effort": Limit(0.5, "discounted")}

    def reset(self, sim: Sim, rng: torch.Generator) -> Terms:
        sign = torch.randint(2, (sim.num_envs, 1), generator=rng) * 2.0 - 1
        return {"x": sign.double()}

    def observe(self, sim: Sim) -> Terms:
        return {"x": sim.memory["x"].clone()}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"gain": -sim.memory["x"][:, 0].square()}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        return {"effort": action[:, 0].double().square()}

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        return {"x": (sim.memory["x"] + action[:, :1].double() / 2).clamp(-2.0, 2.0)}


class Mortal(Bandit):
    """T7: quit, go on slowly (cost .2) or fast (cost 1); the limit is half of what a slow life costs."""

    time_limit = 50 * Bandit.control_dt
    memory = {"quit": 1}
    gains = (0.0, 0.5, 1.0)
    prices = {"wear": (0.0, 0.2, 1.0)}
    limits = {"wear": Limit(5.0, "episode")}

    def terminated(self, sim: Sim) -> Tensor:
        return sim.memory["quit"][:, 0] > 0.5

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        return {"quit": chosen(action)[:, :1]}


class Absorbing(Mortal):
    """As Mortal, but what is cut off is charged as if it had been lived fast."""

    limits = {"wear": Limit(5.0, "episode", absorb=1.0)}


class Jolts(Bandit):
    """T10: two states, one after the other. In the first the fast arm pays 1 and costs 1, in the second every
    arm costs .5, so that an episode's largest cost is 1 after the fast arm and .5 after the others.

    With chance p of the fast arm the peak is .5 + .5 p and the return p: a peak of at most .65 allows p = .3,
    and lambda = dJ/d(peak) = 1 / .5 = 2. A critic that does not know what was charged before would see
    a difference of 1 between the arms, or of the costs' sum, and a lambda of 1.
    """

    time_limit = 8 * Bandit.control_dt
    memory = {"second": 1}
    limits = {"jolt": Limit(0.65, "peak")}

    def chances(self, action: Tensor) -> Tensor:
        return chosen(action)

    def observe(self, sim: Sim) -> Terms:
        return {"second": sim.memory["second"].clone()}

    def rewards(self, sim: Sim, action: Tensor) -> Terms:
        return {"gain": self.chances(action)[:, 1] * (1 - sim.memory["second"][:, 0])}

    def costs(self, sim: Sim, action: Tensor) -> Terms:
        second = sim.memory["second"][:, 0]
        return {"jolt": 0.5 * second + self.chances(action)[:, 1] * (1 - second)}

    def terminated(self, sim: Sim) -> Tensor:
        return sim.memory["second"][:, 0] > 0.5

    def remember(self, sim: Sim, action: Tensor) -> Terms:
        return {"second": torch.ones_like(sim.memory["second"])}
