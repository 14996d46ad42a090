"""An arm puts a peg of 20 mm into a hole of 22 mm, 3 cm deep."""

import math
from dataclasses import replace

import torch
from robokit.tasks._arm import SHAPE, SOLID, Arm, Exact
from robokit.tasks._hand import gap, grasped, place_of, share, turned
from robokit.tasks._robots import EDGE, PANDA

from robokit.task import Scale, States, uniform

THICK, LONG = 0.02, 0.08  # m, the peg
HOLE, TALL, WALL = 0.022, 0.05, 0.016  # m: width of the hole, height of its block, thickness of its walls
GRIP = 0.015  # m from the peg's centre up to where the hand takes it: the origin of its body
DEEP = 0.03  # m in the hole
UPRIGHT = math.cos(math.radians(5))  # of peg and block: so deep, the hole leaves the peg 4 degrees to lean


class ArmPeg(Arm):
    """Put a peg into a hole, with a real set-up's errors and limits."""

    cubes = ("peg", "block")
    robot = replace(PANDA, closing=60)  # a peg is thin
    upright = slice(8, 9)
    time_limit = 6.0  # s
    headline = "success"
    sensing = {
        **{name: Arm.sensing[name] for name in ("joint_pos", "joint_vel")},
        **dict.fromkeys(("peg", "block"), Arm.sensing["cube"]),
        **{f"{name}_yaw": Arm.sensing["cube_yaw"] for name in ("peg", "block")},
    }
    randomize = {k: v for k, v in Arm.randomize.items() if k != "size"} | {"mass": Scale(0.5, 2.0, at="peg")}
    starts = ("above", "around", "held", "lifted", "over", "inside")
    above = States("states/peg_above.npz", 0.26, "states_above")
    around = States("states/peg_around.npz", 0.22, "states_around")
    held = States("states/peg_held.npz", 0.15, "states_held")
    lifted = States("states/peg_lifted.npz", 0.2, "states_lifted")
    over = States("states/peg_over.npz", 0.25, "states_over")
    inside = States("states/peg_inside.npz", 0.12, "states_inside")
    weights = {
        "reach": 0.5,
        "turn": 0.5,
        "grasp": 0.5,
        "lift": 1.0,
        "align": 2.0,
        "fine": 1.5,
        "insert": 4.0,
        "upright": 0.5,
        "table": -0.5,
        "rate": -0.01,
        "posture": -1.0,
    }

    def rests_at(self, number):
        return 0.0 if number else LONG / 2 + GRIP

    def shape(self, body, number):
        if number == 0:
            at, size = [0, 0, -GRIP], [THICK / 2, THICK / 2, LONG / 2]
            body.add_geom(
                name="peg", type=SHAPE.mjGEOM_BOX, pos=at, size=size, rgba=[0.8, 0.45, 0.1, 1], **SOLID
            )
            return
        half, middle = (HOLE + WALL) / 2, [TALL / 2, WALL / 2]
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            size = [WALL / 2, HOLE / 2 + WALL, TALL / 2] if x else [HOLE / 2, WALL / 2, TALL / 2]
            at = [half * x, half * y, middle[0]]
            body.add_geom(
                type=SHAPE.mjGEOM_BOX, pos=at, size=size, rgba=[0.3, 0.35, 0.45, 1], **SOLID | {"mass": 0.3}
            )

    def begin(self, sim, rng):
        """The block 13 to 20 cm from the peg."""
        qpos, angle = super().begin(sim, rng), 3.15 * uniform(sim, rng, 1)
        middle = sim.constant(*self.robot.place) + uniform(sim, rng, 2, 0.03)
        for sign, name in zip((1, -1), self.cubes, strict=True):
            at, far = place_of(sim, name), 0.065 + 0.035 * share(sim, rng)[:, None]
            qpos[:, at : at + 2] = middle + sign * far * torch.cat((angle.cos(), angle.sin()), -1)
        return qpos

    def aligned(self, sim, rng):
        """The peg over the hole, turned as it."""
        qpos = self.begin(sim, rng)
        at, block = (place_of(sim, name) for name in self.cubes)
        qpos[:, at : at + 2] = qpos[:, block : block + 2]
        qpos[:, at + 3 : at + 7] = qpos[:, block + 3 : block + 7]
        return qpos

    def states_over(self, sim, rng):
        """The peg in the hand, its end 0 to 4 cm above the hole."""
        low = TALL + LONG / 2 + GRIP
        return self.settled(sim, rng, (low + 0.002, low + 0.04), 0.002, closed=True, begin=self.aligned)

    def states_inside(self, sim, rng):
        """The peg in the hand, .5 to 2.5 cm deep in the hole."""
        low = TALL + LONG / 2 + GRIP
        shallow, deep = low - 0.005, low - DEEP + 0.005
        return self.settled(sim, rng, (deep, shallow), 0.0, closed=True, begin=self.aligned)

    def privileged(self, sim):
        return {
            **super().privileged(sim),
            "off": sim.sensor("block_pos") - sim.sensor("peg_pos"),
            "up": sim.body("peg").xmat[:, 6:9],  # of the world, seen from the peg
            "turn": sim.body("peg").xmat[:, 0:2],
        }

    def rewards(self, sim, action):
        peg, near, up = sim.sensor("peg_pos"), gap(sim, "peg"), sim.body("peg").xmat[:, 8]
        away, depth = self.away(sim), self.depth(sim)
        held = near < EDGE
        lifted = ((peg[:, 2] - self.rests_at(0)) / 0.05).clamp(0, 1) * held
        over = torch.maximum(lifted, (depth > 0).to(near.dtype))
        return {
            **super().rewards(sim, action),
            "reach": 1 - torch.tanh(5 * near),
            "turn": turned(sim, "peg"),
            "grasp": grasped(sim, "peg").to(near.dtype),
            "lift": over,
            "align": (1 - torch.tanh(8 * away)) * over,
            "fine": torch.exp(-((away / 0.005) ** 2)) * over * held,
            "insert": (depth / DEEP).clamp(0, 1) * (away < HOLE / 2),
            "upright": up.clamp(min=0) * held,
        }

    def metrics(self, sim):
        inside = self.away(sim) < 0.004
        return {
            **super().metrics(sim),
            "success": inside & (self.depth(sim) >= DEEP) & self.upright_both(sim),
            "grasped": grasped(sim, "peg"),
            "lifted": sim.sensor("peg_pos")[:, 2] > self.rests_at(0) + 0.03,
            "distance": self.away(sim),  # m
        }

    def upright_both(self, sim):
        """Whether neither the peg nor its block leans, (N,)."""
        return torch.stack([sim.body(name).xmat[:, 8] > UPRIGHT for name in self.cubes]).all(0)

    def end(self, sim):
        """The peg's lower end, (N, 3) m."""
        down = sim.body("peg").xmat[:, 2::3]
        return sim.sensor("peg_pos") - (LONG / 2 + GRIP) * down

    def away(self, sim):
        """Distance of the peg's lower end from the axis of the hole, (N,) m."""
        return (self.end(sim) - sim.sensor("block_pos"))[:, :2].norm(dim=-1)

    def depth(self, sim):
        """How deep the peg's end is in the hole, (N,) m; 0 beside it."""
        below = sim.sensor("block_pos")[:, 2] + TALL - self.end(sim)[:, 2]
        return below.clamp(min=0) * (self.away(sim) < HOLE / 2)


class Clean(Exact, ArmPeg):
    """ArmPeg without errors and limits."""

    recipes = {"ppo": {**Arm.recipes["ppo"], "steps": 30_000_000}}
