"""The Unitree Go1 of MuJoCo Menagerie follows a joystick: flat ground, 50 Hz, its own sensors only."""

import mujoco
from robokit.tasks._walk import Walk

from robokit.task import Add, Around, menagerie

SENSOR, SITE, BODY = mujoco.mjtSensor, mujoco.mjtObj.mjOBJ_SITE, mujoco.mjtObj.mjOBJ_XBODY
OFF = mujoco.mjtDisableBit.mjDSBL_WARMSTART | mujoco.mjtDisableBit.mjDSBL_ISLAND


class Go1Walk(Walk):
    """Follow a commanded planar velocity and yaw rate on a 12-joint quadruped; its feet touch the ground."""

    base = "trunk"
    foot = 0.023  # m, radius
    tall = 0.28  # m, desired height of the base
    low = 0.15  # m of the base, below which it has fallen
    fastest = (30.1, 30.1, 20.06) * 4  # rad/s of hip, thigh and calf: Unitree's go1_description

    action = Around("home", scale=(0.2, 0.4, 0.5) * 4)  # rad: Menagerie's kp is 100 N m/rad

    randomize = {**Walk.randomize, "center_of_mass": Add(-0.02, 0.02, at="trunk")}  # m

    @property
    def model(self):
        spec = mujoco.MjSpec.from_file(str(menagerie("unitree_go1")))
        spec.modelname = "go1"
        self._coarse(spec.option)
        for geom in spec.geoms:  # only feet touch, and only the floor
            geom.contype, geom.conaffinity = int(geom.name in self.feet), int(geom.name == "floor")
        spec.add_sensor(name="gyro", type=SENSOR.mjSENS_GYRO, objtype=SITE, objname="imu")
        spec.add_sensor(name="velocity", type=SENSOR.mjSENS_VELOCIMETER, objtype=SITE, objname="imu")
        of = {"objtype": BODY, "objname": "world", "reftype": BODY, "refname": self.base}
        spec.add_sensor(name="up", type=SENSOR.mjSENS_FRAMEZAXIS, **of)
        for foot in self.feet:
            spec.site(foot).size[0] = self.foot + 0.002  # m: a touch sensor counts contacts inside its site
            spec.add_sensor(name=f"{foot}_touch", type=SENSOR.mjSENS_TOUCH, objtype=SITE, objname=foot)
            speed = SENSOR.mjSENS_FRAMELINVEL
            spec.add_sensor(name=f"{foot}_velocity", type=speed, objtype=SITE, objname=foot)
        return spec

    def _coarse(self, option):
        """Physics to train in, as of the Go2: docs/decisions/018-go2-physics.md."""
        option.timestep, option.iterations, option.ls_iterations = 0.01, 10, 10  # s
        option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        option.cone, option.impratio = mujoco.mjtCone.mjCONE_PYRAMIDAL, 1.0
        option.disableflags |= OFF
