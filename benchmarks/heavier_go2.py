"""The shipped quadruped on another robot, for `benchmarks/walk.py --init-from`."""

from dataclasses import replace

import torch
from robokit.tasks.go2_walk import Go2Walk

PAYLOAD = 0.2  # of the robot's mass, on its trunk
LATER = 0.012  # s of delay of every sensor


class HeavierGo2(Go2Walk):
    """Follow velocity commands with a payload and later sensors."""

    sensing = {name: replace(sense, delay=LATER) for name, sense in Go2Walk.sensing.items()}

    def randomize(self, sim, rng):
        model, base = super().randomize(sim, rng), sim.model.body("base").id
        mass = model["body_mass"]
        factor = 1 + PAYLOAD * sim.nominal("body_mass").sum() / mass[:, base]
        heavier = torch.ones_like(mass)
        heavier[:, base] = factor
        return model | {
            "body_mass": heavier * mass,
            "body_inertia": heavier[..., None] * model["body_inertia"],
        }
