"""A task's table of physical quantities, resolved against a model and drawn.

    randomize = {                                    # of a Task: drawn anew at every restart
        "gain": Scale(0.9, 1.1),                     # times the nominal value, one draw for each actuator
        "payload": Add(-1.0, 2.0, at="base"),        # plus kg
    }

Names and patterns are resolved against one model; the same fields are written on every engine.
"""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Generator, Tensor

from robokit.errors import ModelError, did_you_mean
from robokit.sim.base import Sim
from robokit.sim.facts.controls import gear_of, is_linear, is_servo, joint_of
from robokit.sim.model import names, nominal
from robokit.sim.quantities.draw import Add, Draw, Scale
from robokit.sim.quantities.write import DOFS, LINE, OF_SERVOS, OFFSET, QUANTITIES, Chosen, Fields, write

ELSEWHERE = {  # what a table does not write -> what does
    "action_delay": "it is the task's own `action_delay`",
    "delay": "a command's is the task's `action_delay`, a sensor's Sense(delay=)",
    "noise": "it is Sense(noise=) of an observation",
    "bias": "it is Sense(bias=) of an observation",
    "dropout": "it is Sense(dropout=) of an observation",
}
DRAWS = 256  # that are looked at for bodies that cannot be
JOINTS = (int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE))


class Table:
    """A task's table of quantities, resolved against a model.

    Raises ModelError for an unknown quantity, a pattern that matches nothing, a quantity that the model
    lacks, or a range in which it stops being physical (no mass, an inertia that is not positive definite).
    """

    def __init__(self, table: Mapping[str, Draw], model: mujoco.MjModel) -> None:
        for name, draw in table.items():
            _check(name, draw)
        self.chosen = {name: _choose(name, table[name], model) for name in QUANTITIES if name in table}
        for name, chosen in self.chosen.items():
            _check_physical(name, chosen, model)
        _check_bodies(self.chosen, model)

    @property
    def memory(self) -> dict[str, int]:
        """{"joint_offset": number of joints with a servo} if the table has that quantity, else {}."""
        return {OFFSET: len(self.chosen[OFFSET].driven)} if OFFSET in self.chosen else {}

    def draw(self, sim: Sim, rng: Generator) -> dict[str, Tensor]:
        """Model fields (n, ...) of new draws for the n simulations of `sim`; and memory "joint_offset"."""
        fields = Fields(sim.nominal, sim.num_envs)
        for name, chosen in self.chosen.items():
            x = torch.empty(sim.num_envs, chosen.width, dtype=torch.float64, device=sim.device)
            x = x.uniform_(chosen.draw.low, chosen.draw.high, generator=rng).to(sim.dtype)
            write(name, fields, chosen, x)
        return dict(fields)

    def facts(self) -> dict[str, dict[str, Any]]:
        """For the contract: {quantity: {"scale" or "add": [low, high], "unit", "of"}}."""
        return {
            name: {
                "scale" if isinstance(c.draw, Scale) else "add": [c.draw.low, c.draw.high],
                "unit": "1" if isinstance(c.draw, Scale) else QUANTITIES[name].unit,
                "of": c.names,
            }
            for name, c in self.chosen.items()
        }


def _check(name: Any, draw: Any) -> None:
    if name in ELSEWHERE:
        raise ModelError(f"{name!r} is no physical quantity: {ELSEWHERE[name]}")
    if name not in QUANTITIES:
        hint = did_you_mean(str(name), QUANTITIES, f"there are {[*QUANTITIES]}")
        raise ModelError(f"no physical quantity {name!r}{hint}")
    quantity = QUANTITIES[name]
    if not isinstance(draw, Scale | Add):
        raise ModelError(f"{name} must be a Scale or an Add, got {draw!r}")
    if isinstance(draw, Scale) and not quantity.scales:
        raise ModelError(f"{name} has no value to scale: use Add, in {quantity.unit}")
    if not (_are_numbers((draw.low, draw.high)) and draw.low <= draw.high):
        raise ModelError(f"the range of {name} must be low <= high, finite, got {draw.low} to {draw.high}")
    if isinstance(draw, Scale) and draw.low <= 0:
        raise ModelError(f"{name} must be scaled by more than 0, got {draw.low}")
    _check_places(name, draw)


def _check_places(name: str, draw: Draw) -> None:
    """Raise ModelError for an `at`, `each` or `place` of another type."""
    at = (draw.at,) if isinstance(draw.at, str) else draw.at
    if not (isinstance(at, tuple) and at and all(isinstance(pattern, str) for pattern in at)):
        raise ModelError(f"{name}: `at` must be a pattern or a tuple of patterns, got {draw.at!r}")
    if draw.each not in (None, True, False):
        raise ModelError(f"{name}: `each` must be True, False or None, got {draw.each!r}")
    place = getattr(draw, "place", None)
    if place is not None and name != "payload":
        raise ModelError(f"a place is for a payload, not for {name}")
    if place is not None and not (isinstance(place, tuple) and len(place) == 3 and _are_numbers(place)):
        raise ModelError(f"payload: `place` must be three finite numbers, in m, got {place!r}")


def _are_numbers(values: tuple[Any, ...]) -> bool:
    return all(isinstance(x, int | float) and not isinstance(x, bool) and np.isfinite(x) for x in values)


def _matches(name: str, draw: Draw) -> bool:
    patterns = (draw.at,) if isinstance(draw.at, str) else draw.at
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _choose(name: str, draw: Draw, model: mujoco.MjModel) -> Chosen:
    """The elements of one entry. Raises ModelError for a pattern without any, or an element without it."""
    quantity = QUANTITIES[name]
    known = names(model, quantity.kind)
    acts = (act for act in range(model.nactuator) if is_servo(model, act))
    servos = [(act, joint) for act in acts if (joint := joint_of(model, act)) is not None]
    driven = {joint for _, joint in servos}
    rows = [i for i in _candidates(quantity.kind, model) if _matches(known[i], draw)]
    if name in OF_SERVOS:  # of others there is no target or limit to move
        rows = [i for i in rows if i in driven] or rows
    for pattern in (draw.at,) if isinstance(draw.at, str) else draw.at:
        if not any(fnmatchcase(known[i], pattern) for i in rows):
            hint = did_you_mean(pattern, known)
            raise ModelError(f"{name} at {pattern!r}: the model has no such {quantity.kind}{hint}")
    each = quantity.each if draw.each is None else draw.each
    width = quantity.width * (len(rows) if each else 1)
    chosen = Chosen(name, rows, [known[i] for i in rows], draw, width)
    if quantity.kind == "joint":
        chosen.driven.extend(i for i in _candidates("joint", model) if i in driven)
        chosen.dofs.extend(model.jnt_dofadr[rows].tolist())
        chosen.servos.extend((rows.index(joint), act) for act, joint in servos if joint in rows)
        chosen.gears.extend(gear_of(model, act) for _, act in chosen.servos)
    return chosen


def _candidates(kind: str, model: mujoco.MjModel) -> list[int]:
    """Indices of the elements that a pattern may name: no body that cannot move, no free or ball joint."""
    if kind == "joint":
        return [i for i in range(model.njnt) if int(model.jnt_type[i]) in JOINTS]
    if kind == "body":
        free = (model.body_weldid != 0) & (model.body_mocapid < 0) & (model.body_mass > 0)
        return np.flatnonzero(free).tolist()
    return list(range({"actuator": model.nactuator, "geom": model.ngeom}[kind]))


def _check_physical(name: str, chosen: Chosen, model: mujoco.MjModel) -> None:
    """Raise ModelError where the model lacks the quantity, or an end of its range is not physical."""
    for row, element in zip(chosen.rows, chosen.names, strict=True):
        if name == "torque_limit" and not model.actuator_forcelimited[row]:
            raise ModelError(f"torque_limit at {element!r}: the actuator has no forcerange to change")
        if name == "gain" and not is_linear(model, row):
            raise ModelError(f"gain at {element!r}: its force is not a gain times ctrl")
        value, low = _value(name, row, model), chosen.draw.low
        if isinstance(chosen.draw, Add) and value is not None and value + low < 0:
            rule = f"{name} of {element!r} must stay at least 0"
            raise ModelError(f"{rule}: it is {value:g} {QUANTITIES[name].unit}, plus {low:g}")
    if name in OF_SERVOS and not chosen.servos:
        moved = "target it would shift" if name == OFFSET else "torque limit it would lower"
        raise ModelError(f"{name}: none of {chosen.names} is driven by a servo, whose {moved}")
    for place, act in chosen.servos if name == LINE else ():
        if not model.actuator_forcelimited[act]:
            raise ModelError(f"{LINE} at {chosen.names[place]!r}: its servo has no forcerange to lower")


def _value(name: str, row: int, model: mujoco.MjModel) -> float | None:
    """The nominal value of an element that may not fall below 0; None: another check, or no bound."""
    if name in DOFS:
        return float(nominal(model, DOFS[name])[model.jnt_dofadr[row]])
    if name == LINE:
        return 0.0
    if name == "gain":
        return float(abs(model.actuator_gainprm[row, 0]))
    if name == "torque_limit":
        return float(np.abs(model.actuator_forcerange[row]).min())
    return float(model.geom_friction[row, 0]) if name == "friction" else None


def _check_bodies(all_chosen: Mapping[str, Chosen], model: mujoco.MjModel) -> None:
    """Raise ModelError if draws leave a body without mass, or with an inertia that no body has.

    Looked at are the lowest and the highest of all, and DRAWS random ones.
    """
    fields = Fields(lambda name: torch.from_numpy(np.array(nominal(model, name))), DRAWS + 2)
    rng = torch.Generator().manual_seed(0)
    for name, chosen in all_chosen.items():
        share = torch.rand(DRAWS + 2, chosen.width, generator=rng, dtype=torch.float64)
        share[0], share[1] = 0.0, 1.0
        write(name, fields, chosen, chosen.draw.low + share * (chosen.draw.high - chosen.draw.low))
    mass, inertia = fields["body_mass"], fields["body_inertia"].sort(-1).values
    small = (mass <= 0) | (inertia[..., 0] <= 0)
    flat = inertia[..., 2] > (inertia[..., 0] + inertia[..., 1]) * (1 + 1e-6)
    touched = {row for c in all_chosen.values() if QUANTITIES[c.name].kind == "body" for row in c.rows}
    for row in sorted(touched):
        for draw in torch.nonzero(small[:, row] | flat[:, row])[:1, 0].tolist():
            principal = [float(f"{x:.3g}") for x in inertia[draw, row]]
            rule = "mass and inertia must stay above 0, and no principal inertia above the sum of the others"
            got = f"{float(mass[draw, row]):.3g} kg and {principal} kg m^2"
            raise ModelError(f"body {names(model, 'body')[row]!r}: {rule}; a draw has {got}")
