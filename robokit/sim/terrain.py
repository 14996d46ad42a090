"""Rough ground: one height field of tiles, a column for each kind and a row for each level.

    GROUND = Terrain(("slope", "steps", "rough"), levels=5)
    SCENE = GROUND.added(mujoco.MjSpec.from_file("scene.xml"), floor="floor")
    model = SCENE                                                                      # of a Task
    place = GROUND.start(sim, level, kind) + sim.constant(0.0, 0.0, 0.4)               # in its reset, of qpos
    clearance = sim.site("FL").xpos[..., 2] - GROUND.height(sim, feet)[:, 0]

A tile is a pyramid: its middle is flat, its rim is at height 0, and what lies between is its kind's. So each
way out of the middle meets the same ground. Heights equal MuJoCo's own triangles, on every engine.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import mujoco
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robokit.errors import ModelError, TaskError, did_you_mean
from robokit.sim.base import Sim

NAME = "terrain"  # of the height field and its geom
OF_FLOOR = (
    *("contype", "conaffinity", "condim", "friction", "solref", "solimp", "solmix", "priority", "margin"),
    *("gap", "material", "rgba", "group"),
)
MOST_POINTS = 20_000_000
DEPTH = 0.5  # m of ground below the lowest point
Heights = npt.NDArray[np.float64]
Shape = Callable[[Heights, float, np.random.Generator], Heights]  # distance from the rim (m), size, draws


def _slope(inward: Heights, rise: float, rng: np.random.Generator) -> Heights:
    return rise * inward


def _steps(inward: Heights, high: float, rng: np.random.Generator) -> Heights:
    return high * np.floor(inward / 0.3)


def _rough(inward: Heights, high: float, rng: np.random.Generator) -> Heights:
    return rng.uniform(-high, high, inward.shape)


def _stones(inward: Heights, high: float, rng: np.random.Generator) -> Heights:
    """Blocks of 4 x 4 cells, each of its own height."""
    blocks = rng.uniform(-high, high, [-(-n // 4) for n in inward.shape])
    return blocks.repeat(4, 0).repeat(4, 1)[: inward.shape[0], : inward.shape[1]]


def _gaps(inward: Heights, wide: float, rng: np.random.Generator) -> Heights:
    """Trenches of this width in rings, 1 m apart."""
    return np.where((inward % 1.0 < wide) & (inward >= 1.0), -0.5, 0.0)


KINDS: dict[str, tuple[Shape, float]] = {  # each kind's shape, and its size at the highest level
    "flat": (lambda inward, size, rng: np.zeros_like(inward), 0.0),
    "slope": (_slope, 0.36),  # m/m, 20 degrees
    "steps": (_steps, 0.15),  # m, each 0.3 m deep
    "rough": (_rough, 0.08),  # m up and down
    "stones": (_stones, 0.12),  # m up and down
    "gaps": (_gaps, 0.3),  # m wide
}


@dataclass(frozen=True, eq=False)
class Terrain:
    """Tiles of ground. kinds: of KINDS. hardest: other sizes at the highest level than KINDS says.

    Level l of L has (l + 1) / L of its kind's size. Raises ModelError for an unknown kind, no level, or a
    tile without room around its middle.
    """

    kinds: tuple[str, ...] = ("slope", "steps", "rough")
    levels: int = 5
    tile: float = 8.0  # m, edge of a tile
    cell: float = 0.1  # m, edge of a cell of the height field
    middle: float = 2.0  # m, edge of the flat middle of a tile
    border: float = 0.0  # m of flat ground around the tiles
    hardest: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.kinds, tuple) or not isinstance(self.levels, int):
            got = f"{self.kinds!r} and {self.levels!r}"
            raise ModelError(f"a terrain has a tuple of kinds and a whole number of levels, got {got}")
        for kind in (*self.kinds, *self.hardest):
            if kind not in KINDS:
                hint = did_you_mean(kind, KINDS, f"there are {[*KINDS]}")
                raise ModelError(f"no kind of terrain {kind!r}{hint}")
        if self.levels < 1 or not self.kinds:
            got = f"{self.levels} levels of {[*self.kinds]}"
            raise ModelError(f"a terrain needs a level and a kind, got {got}")
        if not 0 < self.cell <= self.middle < self.tile - 4 * self.cell:
            got = f"cell {self.cell}, middle {self.middle}, tile {self.tile}"
            raise ModelError(f"a tile needs 0 < cell <= middle < tile - 4 cells, in m, got {got}")
        for what, size in (("tile", self.tile), ("border", self.border)):
            if not (cells := size / self.cell) >= 0 or abs(cells - round(cells)) > 1e-6:
                raise ModelError(f"a {what} must be a whole number of cells, got {size} m / {self.cell} m")
        if (points := math.prod(2 * half / self.cell for half in self._extent)) > MOST_POINTS:
            rule = f"a terrain has at most {MOST_POINTS:,} points"
            raise ModelError(f"{rule}, got {points:,.0f}: a larger cell")

    @cached_property
    def heights(self) -> npt.NDArray[np.float32]:
        """Heights of the grid points in m, (rows, columns): y over levels, x over kinds; 0 on every rim."""
        rng, n = np.random.default_rng(self.seed), round(self.tile / self.cell)
        whole = np.zeros((self.levels * n + 1, len(self.kinds) * n + 1))
        for level in range(self.levels):
            for column, kind in enumerate(self.kinds):
                tile = self._tile(kind, (level + 1) / self.levels, n, rng)
                whole[level * n : (level + 1) * n + 1, column * n : (column + 1) * n + 1] = tile
        return np.pad(whole, round(self.border / self.cell)).astype(np.float32)

    def _tile(self, kind: str, share: float, n: int, rng: np.random.Generator) -> Heights:
        at = np.minimum(np.arange(n + 1), n - np.arange(n + 1)) * self.cell
        inward = np.minimum.outer(at, at)  # m from the rim
        flat = (self.tile - self.middle) / 2
        shape, largest = KINDS[kind]
        size = self.hardest.get(kind, largest) * share
        heights = shape(np.minimum(inward, flat) if kind in ("slope", "steps") else inward, size, rng)
        if kind not in ("slope", "steps"):
            heights = np.where(inward >= flat, 0.0, heights)
        return np.where(inward <= 0, 0.0, heights)

    @property
    def _extent(self) -> tuple[float, float]:
        """Half of the field's extent in x and y, m."""
        return len(self.kinds) * self.tile / 2 + self.border, self.levels * self.tile / 2 + self.border

    def added(self, spec: mujoco.MjSpec, floor: str | None = None) -> mujoco.MjSpec:
        """The same spec, with the height field in place of the geom `floor`, whose properties it takes.

        Raises ModelError if there is no such geom.
        """
        if spec.hfield(NAME) is not None:
            raise ModelError(f"the model has a height field {NAME!r} already")
        old = None if floor is None else spec.geom(floor)
        if floor is not None and old is None:
            known = [geom.name for geom in spec.geoms]
            raise ModelError(f"no geom {floor!r} to put the terrain in place of; there are {known}")
        # where a foot sinks by its radius, MuJoCo's native collisions push it aside or down: decision 038
        spec.option.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_NATIVECCD)
        low, high = float(self.heights.min()), float(self.heights.max())
        tall = max(high - low, 1e-3)
        spec.add_hfield(
            name=NAME,
            nrow=self.heights.shape[0],
            ncol=self.heights.shape[1],
            size=[*self._extent, tall, DEPTH],
            userdata=((self.heights - low) / tall).ravel(),
        )
        place = np.zeros(3) if old is None else np.array(old.pos)
        options = {} if old is None else {key: getattr(old, key) for key in OF_FLOOR}
        if old is not None:
            spec.delete(old)
        spec.worldbody.add_geom(
            name=floor or NAME,
            type=mujoco.mjtGeom.mjGEOM_HFIELD,
            hfieldname=NAME,
            pos=place + np.array((0, 0, low)),
            **options,
        )
        return spec

    def start(self, sim: Sim, level: Tensor, kind: Tensor) -> Tensor:
        """(n, 3) the middle of tiles, m: level (n,) from 0, kind (n,) index in `kinds`; z is the ground's.

        A level beyond the last is the last. Raises ModelError for several levels of a task that has none,
        TaskError if the robot does not fit on a tile (`_robot`).
        """
        sim.made_once(f"{NAME} robot", lambda: self._fitting(sim))
        if self.levels > 1 and sim.highest is None:
            rule = f"a terrain of {self.levels} levels needs a task with levels"
            raise ModelError(f"{rule}: level = Level(highest={self.levels - 1}), or Terrain(levels=1)")
        level = level.clamp(max=self.levels - 1)
        corner = _place(sim)[:2] - sim.constant(*self._extent) + self.border
        xy = corner + (torch.stack((kind, level), -1) + 0.5).to(sim.dtype) * self.tile
        return torch.cat((xy, self.height(sim, xy[:, None])), -1)

    def _fitting(self, sim: Sim) -> Tensor:
        if (size := _robot(sim.model)) > self.tile:
            raise TaskError(f"a tile must be as large as the robot, {size:.2f} m; got tile {self.tile} m")
        return sim.constant(size)

    def height(self, sim: Sim, xy: Tensor) -> Tensor:
        """Heights of the ground (N, K), m, below points xy (N, K, 2 or 3) in the world; beyond the rim: 0."""
        grid = sim.made_once(NAME, lambda: _grid(sim))
        x, y, low = _place(sim).unbind()
        u = (xy[..., 0] - x + self._extent[0]) / self.cell
        v = (xy[..., 1] - y + self._extent[1]) / self.cell
        rows, columns = grid.shape
        c, r = (  # of a broken simulation they are NaN, and the height 0
            x.nan_to_num().floor().clamp(0, most).long() for x, most in ((u, columns - 2), (v, rows - 2))
        )
        fu, fv = u - c, v - r
        corner, across = grid[r, c], grid[r + 1, c + 1]  # the diagonal that MuJoCo divides a cell by
        side = torch.where(fu >= fv, grid[r, c + 1], grid[r + 1, c])
        most, least = torch.maximum(fu, fv), torch.minimum(fu, fv)
        inside = (u >= 0) & (u <= columns - 1) & (v >= 0) & (v <= rows - 1)
        value = corner + (side - corner) * most + (across - side) * least
        return torch.where(inside, value + low, 0.0)

    def scan(self, sim: Sim, xy: Tensor, yaw: Tensor, grid: Tensor) -> Tensor:
        """Heights (N, K), m, at points `grid` (K, 2) around xy (N, 2), turned by yaw (N,), rad."""
        cos, sin = yaw.cos()[:, None], yaw.sin()[:, None]
        x, y = grid.to(xy).unbind(-1)
        return self.height(sim, torch.stack((x * cos - y * sin, x * sin + y * cos), -1) + xy[:, None])


def _grid(sim: Sim) -> Tensor:
    """Heights of the grid points above the geom's place, (rows, columns) m."""
    own = sim.model.hfield(NAME)
    shape, start = (int(own.nrow[0]), int(own.ncol[0])), int(own.adr[0])
    unit = sim.nominal("hfield_data")[start : start + shape[0] * shape[1]].view(shape)
    return unit * sim.nominal("hfield_size")[own.id, 2]


def _place(sim: Sim) -> Tensor:
    """Place (3,) of the height field's geom, m."""
    return sim.made_once(f"{NAME} place", lambda: sim.nominal("geom_pos")[_geom(sim.model)])


def _robot(model: mujoco.MjModel) -> float:
    """Diameter (m) of the circle around its root body that holds the robot at qpos0, seen from above.

    Of several robots the largest; a geom counts with its bounding sphere.
    """
    data, body = mujoco.MjData(model), model.geom_bodyid
    mujoco.mj_kinematics(model, data)
    away = np.linalg.norm((data.geom_xpos - data.xpos[model.body_rootid[body]])[:, :2], axis=1)
    return 2 * float((away + model.geom_rbound)[model.body_weldid[body] > 0].max(initial=0.0))


def _geom(model: mujoco.MjModel) -> int:
    """Index of the geom of the height field."""
    field = model.geom_type == int(mujoco.mjtGeom.mjGEOM_HFIELD)
    return int(np.flatnonzero(field & (model.geom_dataid == model.hfield(NAME).id))[0])
