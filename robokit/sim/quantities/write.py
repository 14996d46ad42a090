"""The quantities: what each changes in a model, so that what belongs together moves together."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from robokit.sim.quantities.draw import Draw, Scale

DOFS = {"damping": "dof_damping", "armature": "dof_armature", "friction_loss": "dof_frictionloss"}
OFFSET = "joint_offset"  # also the name of the memory that holds it
LINE = "torque_speed"
OF_SERVOS = (OFFSET, LINE)


class Fields(dict[str, Tensor]):
    """Model fields (n, ...) of n simulations, which start at their nominal values."""

    def __init__(self, nominal: Callable[[str], Tensor], n: int) -> None:
        super().__init__()
        self._nominal, self._n = nominal, n

    def __missing__(self, name: str) -> Tensor:
        value = self._nominal(name)
        self[name] = value.expand(self._n, *value.shape).clone()
        return self[name]


@dataclass(frozen=True, eq=False)
class Chosen:
    """The elements of one entry of a table: `rows`, indices of the quantity's kind, and what moves along."""

    name: str  # of the quantity
    rows: list[int]
    names: list[str]
    draw: Draw
    width: int  # numbers of one draw
    dofs: list[int] = field(default_factory=list)  # of joints
    servos: list[tuple[int, int]] = field(default_factory=list)  # (place in rows, actuator), of joints
    gears: list[float] = field(default_factory=list)  # of the servos: length per rad or m
    driven: list[int] = field(default_factory=list)  # all joints with a servo, those of `rows` or not

    _indices: dict[tuple[str, torch.device], Any] = field(default_factory=dict)

    def index(self, what: str, device: torch.device) -> Any:
        """`rows`, `dofs`, or the servos' `places`, `acts` or `turned` dofs, made once on a device.

        A slice where they follow each other, whose values are views; else a tensor, as `gears` is.
        """
        if (what, device) not in self._indices:
            parts: dict[str, list[Any]] = {"rows": self.rows, "dofs": self.dofs, "gears": self.gears}
            parts |= {"columns": [self.driven.index(row) for row in self.rows] if self.driven else []}
            parts |= {"places": [place for place, _ in self.servos], "acts": [act for _, act in self.servos]}
            parts |= {"turned": [self.dofs[place] for place in parts["places"]] if self.dofs else []}
            numbers, kind = parts[what], torch.float64 if what == "gears" else torch.long
            together = what not in ("gears", "turned") and numbers == [*range(numbers[0], numbers[-1] + 1)]
            whole = slice(numbers[0], numbers[-1] + 1)
            found = whole if together else torch.tensor(numbers, dtype=kind, device=device)
            self._indices[what, device] = found
        return self._indices[what, device]

    def moved(self, value: Tensor, x: Tensor) -> Tensor:
        """The nominal `value` (n, k) times or plus the draws x (n, k)."""
        return value * x if isinstance(self.draw, Scale) else value + x


Write = Callable[[Fields, Chosen, Tensor], None]


@dataclass(frozen=True)
class Quantity:
    """unit: of an Add. kind: what `at` names. each: one draw for each element. scales: a Scale is allowed."""

    unit: str
    kind: str  # actuator, joint, body or geom
    write: Write
    words: str
    each: bool = True
    scales: bool = True
    width: int = 1


def _gain(fields: Fields, chosen: Chosen, x: Tensor) -> None:
    gain, bias = fields["actuator_gainprm"], fields["actuator_biasprm"]
    rows = chosen.index("rows", x.device)
    before = gain[:, rows, 0]
    servo = bias[:, rows, 1] == -before
    gain[:, rows, 0] = chosen.moved(before, x)
    bias[:, rows, 1] = torch.where(servo, -gain[:, rows, 0], bias[:, rows, 1])


def _damping(fields: Fields, chosen: Chosen, x: Tensor) -> None:
    _of_dofs("dof_damping")(fields, chosen, x)
    if isinstance(chosen.draw, Scale) and chosen.servos:
        places, acts = (chosen.index(what, x.device) for what in ("places", "acts"))
        fields["actuator_biasprm"][:, acts, 2] *= x[:, places]


def _of_dofs(name: str) -> Write:
    def write_field(fields: Fields, chosen: Chosen, x: Tensor) -> None:
        dofs = chosen.index("dofs", x.device)
        fields[name][:, dofs] = chosen.moved(fields[name][:, dofs], x)

    return write_field


def _torque_limit(fields: Fields, chosen: Chosen, x: Tensor) -> None:
    limits, rows, x = fields["actuator_forcerange"], chosen.index("rows", x.device), x[..., None]
    more = torch.cat((-x, x), -1)
    limits[:, rows] = limits[:, rows] * x if isinstance(chosen.draw, Scale) else limits[:, rows] + more


def _mass(fields: Fields, chosen: Chosen, x: Tensor) -> None:
    rows, mass = chosen.index("rows", x.device), fields["body_mass"]
    before = mass[:, rows].clone()
    mass[:, rows] = chosen.moved(before, x)
    fields["body_inertia"][:, rows] *= (mass[:, rows] / before)[..., None]


def _center_of_mass(fields: Fields, chosen: Chosen, x: Tensor) -> None:
    fields["body_ipos"][:, chosen.index("rows", x.device)] += x.unflatten(-1, (-1, 3))


def _payload(fields: Fields, chosen: Chosen, x: Tensor) -> None:
    """Add a point mass: two bodies' masses at a distance s have mu (|s|^2 1 - s s^T) more inertia."""
    rows, place = chosen.index("rows", x.device), getattr(chosen.draw, "place", None)
    mass, center = fields["body_mass"], fields["body_ipos"]
    before, total = mass[:, rows], mass[:, rows] + x
    if place is not None:
        offset = center.new_tensor(place) - center[:, rows]  # s, (n, k, 3)
        reduced = before * x / total  # mu
        eye = torch.eye(3, dtype=offset.dtype, device=offset.device)
        more = offset.square().sum(-1)[..., None, None] * eye - offset[..., :, None] * offset[..., None, :]
        inertia, quat = fields["body_inertia"], fields["body_iquat"]
        turned = _matrix(quat[:, rows])
        whole = turned * inertia[:, rows][..., None, :] @ turned.mT + reduced[..., None, None] * more
        inertia[:, rows], axes = torch.linalg.eigh(whole)
        quat[:, rows] = _quaternion(axes)
        center[:, rows] += (x / total)[..., None] * offset
    mass[:, rows] = total


def _joint_offset(fields: Fields, chosen: Chosen, x: Tensor) -> None:
    """A servo that reads q - offset holds q = target + offset: kp (ctrl - gear (q - offset)) - kd dq."""
    fields[OFFSET] = x.new_zeros(len(x), len(chosen.driven))
    fields[OFFSET][:, chosen.index("columns", x.device)] = x
    places, acts, gears = (chosen.index(what, x.device) for what in ("places", "acts", "gears"))
    moved = gears.to(x.dtype) * x[:, places]
    fields["actuator_biasprm"][:, acts, 0] += fields["actuator_gainprm"][:, acts, 0] * moved


def _torque_speed(fields: Fields, chosen: Chosen, x: Tensor) -> None:
    """Force clip(kp (ctrl - l) - (kd - s) dl) - s dl: below the limit as before, at it limit - s dl.

    l is the actuator's length, gear times the joint's angle; the second term is damping of the joint, which
    the force range does not clip.
    """
    places, acts, gears = (chosen.index(what, x.device) for what in ("places", "acts", "gears"))
    slope = x[:, places]
    fields["actuator_biasprm"][:, acts, 2] += slope
    more = gears.to(x.dtype).square() * slope
    fields["dof_damping"].index_add_(1, chosen.index("turned", x.device), more)


def _friction(fields: Fields, chosen: Chosen, x: Tensor) -> None:
    friction, rows = fields["geom_friction"], chosen.index("rows", x.device)
    if isinstance(chosen.draw, Scale):
        friction[:, rows] *= x[..., None]
    else:
        friction[:, rows, 0] += x


QUANTITIES: dict[str, Quantity] = {  # in the order in which they are written
    "gain": Quantity("of kp or force", "actuator", _gain, "kp of a servo, force of ctrl 1 of a motor"),
    "damping": Quantity(
        "N m s/rad", "joint", _damping, "viscous damping of a joint; a Scale takes its servo's kd along"
    ),
    "torque_limit": Quantity(
        "N m", "actuator", _torque_limit, "largest force or torque of an actuator, before its gear"
    ),
    "armature": Quantity("kg m^2", "joint", _of_dofs(DOFS["armature"]), "rotor inertia seen at the joint"),
    "friction_loss": Quantity("N m", "joint", _of_dofs(DOFS["friction_loss"]), "dry friction of a joint"),
    LINE: Quantity(
        "N m s/rad", "joint", _torque_speed, "fall of a servo's torque limit with speed", scales=False
    ),
    "mass": Quantity("kg", "body", _mass, "mass of a body, its inertia in proportion"),
    "center_of_mass": Quantity(
        "m", "body", _center_of_mass, "place of a body's centre of mass, three draws", scales=False, width=3
    ),
    "payload": Quantity("kg", "body", _payload, "a point mass on a body", scales=False),
    OFFSET: Quantity(
        "rad", "joint", _joint_offset, "error of a joint's zero: of reading and target", scales=False
    ),
    "friction": Quantity(
        "1", "geom", _friction, "of contacts: all coefficients times, or sliding plus", each=False
    ),
}


def write(name: str, fields: Fields, chosen: Chosen, x: Tensor) -> None:
    """Write the draws x (n, width) of a quantity into `fields`."""
    wide = len(chosen.rows) * QUANTITIES[name].width
    QUANTITIES[name].write(fields, chosen, x if x.shape[1] == wide else x.repeat(1, wide // x.shape[1]))


def _matrix(quat: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of unit quaternions (..., 4), wxyz."""
    w, x, y, z = quat.unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _quaternion(axes: Tensor) -> Tensor:
    """Unit quaternions (..., 4), wxyz, of principal axes (..., 3, 3) in columns, made right-handed.

    Of the four ways to divide, the one by the largest component (Shepperd 1978).
    """
    sign = torch.linalg.det(axes).sign()[..., None]
    axes = torch.cat((axes[..., :2], (axes[..., 2] * sign)[..., None]), -1)
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in axes.unbind(-2))
    four = torch.stack(
        (
            torch.stack((1 + xx + yy + zz, zy - yz, xz - zx, yx - xy), -1),
            torch.stack((zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx), -1),
            torch.stack((xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy), -1),
            torch.stack((yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz), -1),
        ),
        -2,
    )
    best = four.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None].expand(*four.shape[:-2], 1, 4)
    chosen = four.gather(-2, best).squeeze(-2)
    return chosen / chosen.norm(dim=-1, keepdim=True)
