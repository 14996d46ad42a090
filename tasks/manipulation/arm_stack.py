"""An arm puts one cube on another, lets go of it, and takes its hand away."""

import torch
from robokit.tasks._arm import Arm, Exact
from robokit.tasks._hand import gap, grasped, place_of, share, touch, turned
from robokit.tasks._robots import EDGE, PANDA

from robokit.task import Scale, States, uniform

AWAY = 0.06  # m from the tip to the cube: the hand is away
FREE = 0.1  # N of each finger, below which it has let go


class ArmStack(Arm):
    """Stack a cube on another and leave it there, with a real set-up's errors and limits."""

    cubes = ("cube", "base")
    time_limit = 5.0  # s
    headline = "success"
    memory = {"began": 2}  # m, where the other cube stood
    sensing = {**Arm.sensing, "base": Arm.sensing["cube"], "base_yaw": Arm.sensing["cube_yaw"]}
    randomize = {**Arm.randomize, "mass": Scale(0.5, 2.0, at=("cube", "base"))}
    starts = ("above", "around", "held", "lifted", "over", "placed", "released")
    above = States("states/stack_above.npz", 0.28, "states_above")
    around = States("states/stack_around.npz", 0.22, "states_around")
    held = States("states/stack_held.npz", 0.16, "states_held")
    lifted = States("states/stack_lifted.npz", 0.15, "states_lifted")
    over = States("states/stack_over.npz", 0.1, "states_over")
    placed = States("states/stack_placed.npz", 0.06, "states_placed")
    released = States("states/stack_released.npz", 0.05, "states_released")
    weights = {
        "reach": 0.5,
        "turn": 0.5,
        "grasp": 0.5,
        "lift": 1.0,
        "place": 2.0,
        "there": 1.0,
        "on": 0.5,
        "open": 0.5,
        "away": 1.0,
        "moved": -2.0,
        "rate": -0.01,
        "table": -0.5,
        "posture": -1.0,
    }

    recipes = {
        "ppo": {
            **Arm.recipes["ppo"],
            "steps": 8_000_000,
            "horizon": 32,
            "minibatch": 1024,
            "lr": (7e-4, 0.0),
            "entropy_coef": (0.002, 0.0),
        }
    }

    def begin(self, sim, rng):
        """The cubes on the table, 10 to 16 cm apart."""
        qpos, angle = super().begin(sim, rng), 3.15 * uniform(sim, rng, 1)
        middle = sim.constant(*self.robot.place) + uniform(sim, rng, 2, 0.03)
        for sign, name in zip((1, -1), self.cubes, strict=True):
            at, far = place_of(sim, name), 0.05 + 0.03 * share(sim, rng)[:, None]
            qpos[:, at : at + 2] = middle + sign * far * torch.cat((angle.cos(), angle.sin()), -1)
        return qpos

    def stacked(self, sim, rng):
        """The first cube on the other one."""
        qpos = self.begin(sim, rng)
        at, base = (place_of(sim, name) for name in self.cubes)
        qpos[:, at : at + 2] = qpos[:, base : base + 2] + uniform(sim, rng, 2, 0.008)
        qpos[:, at + 2] = 1.5 * EDGE
        return qpos

    def reset(self, sim, rng):
        start, base = super().reset(sim, rng), place_of(sim, "base")
        return {**start, "began": start["qpos"][:, base : base + 2]}

    def states_over(self, sim, rng):
        """The cube in the hand, above the other one."""
        return self.settled(sim, rng, (0.08, 0.14), 0.004, closed=True, begin=self.stacked)

    def states_placed(self, sim, rng):
        """The cube on the other one, and in the hand."""
        return self.settled(sim, rng, (1.5 * EDGE, 1.5 * EDGE), 0.003, closed=True, begin=self.stacked)

    def states_released(self, sim, rng):
        """The cube on the other one, the open hand around it or up to 8 cm above."""
        return self.settled(sim, rng, (1.5 * EDGE, 0.14), 0.003, begin=self.stacked)

    def privileged(self, sim):
        return {**super().privileged(sim), "off": self.off(sim), "began": sim.memory["began"]}

    def rewards(self, sim, action):
        cube, near, off = sim.sensor("cube_pos"), gap(sim), self.off(sim).norm(dim=-1)
        on, up = self.on(sim), cube[:, 2] > 0.035
        width = sim.qpos[:, self.robot.joints] - EDGE / 2  # m
        moved = (sim.sensor("base_pos")[:, :2] - sim.memory["began"]).norm(dim=-1)
        staged = {
            "reach": 1 - torch.tanh(5 * near),
            "turn": turned(sim),
            "grasp": grasped(sim).to(near.dtype),
            "lift": ((cube[:, 2] - EDGE / 2) / 0.05).clamp(0, 1) * (near < EDGE),
            "place": (1 - torch.tanh(5 * off)) * up * (near < 0.05),
            "there": torch.exp(-((off / 0.02) ** 2)) * up,
        }
        return {
            **super().rewards(sim, action),
            **{name: torch.where(on, 1.0, term) for name, term in staged.items()},
            "on": on.to(near.dtype),
            "open": on * (width / (PANDA.opened - EDGE / 2)).clamp(0, 1),
            "away": on * self.free(sim) * (near / AWAY / 1.3).clamp(0, 1),
            "moved": (moved / 0.1).clamp(max=1),
        }

    def remember(self, sim, action):
        return {"began": sim.memory["began"]}

    def metrics(self, sim):
        on, free = self.on(sim), self.free(sim)
        still = sim.sensor("cube_linvel").norm(dim=-1) < 0.05  # m/s
        return {
            **super().metrics(sim),
            "success": on & free & still & (gap(sim) > AWAY),
            "on": on,
            "released": on & free,
            "grasped": grasped(sim),
        }

    def off(self, sim):
        """From the cube to its place on the other one, (N, 3) m."""
        return sim.sensor("base_pos") + sim.constant(0.0, 0.0, EDGE) - sim.sensor("cube_pos")

    def on(self, sim):
        """Whether the cube is there, (N,)."""
        off = self.off(sim)
        return (off[:, :2].norm(dim=-1) < EDGE / 2) & (off[:, 2].abs() < 0.008)

    def free(self, sim):
        """Whether no finger touches anything, (N,)."""
        return (touch(sim) < FREE).all(-1)


class Clean(Exact, ArmStack):
    """ArmStack without errors and limits."""
