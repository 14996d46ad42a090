"""Constrained problems whose answers are known on paper, as tasks: the simulator only counts the time."""

import mujoco
import torch
from torch import Tensor

from robokit.sim import Sim
from robokit.task import Limit, Task, Terms

XML = """
<mujoco>
  <worldbody><body><joint name="x" type="slide"/><geom size=".1"/></body></worldbody>
  <actuator><motor joint="x" ctrlrange="-1 1"/><motor joint="x" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


def chosen(action: Tensor) -> Tensor:
    """(N, 3) one-hot: the greatest of 0 and the two numbers of an action."""
    return torch.nn.functional.one_hot(torch.nn.functional.pad(action, (1, 0)).argmax(-1), 3).double()


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
