"""The arms of the tasks: what a task must know of a robot that its MJCF does not hold.

An MJCF has the sites gripper and elbow, the sensors tip, left_touch and right_touch, the keyframe home, the
joints of the arm first and then those of the gripper.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from robokit.task import Add, Delta, Scale

ROBOTS = Path(__file__).parents[1] / "robots"
EDGE = 0.04  # m, of a cube of the Panda


@dataclass(frozen=True)
class Robot:
    """The facts of an arm that its MJCF does not hold, and where it works."""

    file: Path
    joints: int  # of the arm
    opened: float  # ctrl of the open gripper
    closed: float  # ctrl of the closed one
    closing: int  # steps of 5 ms until the fingers are around a cube
    edge: float  # m, of a cube that fits between the fingers
    fastest: tuple[float, ...]  # rad/s of each joint
    moving: str  # pattern of the names of its joints
    step: float  # rad, largest step of a joint's target in a control step
    leash: float  # rad, largest distance of the target from the joint
    zero: float  # rad, largest error of a joint's zero
    gain: tuple[float, float]  # what is known of a servo's kp, as a factor
    speeds: bool  # whether the bus tells the joints' speeds
    place: tuple[float, float]  # m, centre of the square in which things lie
    spread: float  # m, half its edge
    top: float  # m, how high the tip goes in the States
    turn: float  # rad, yaw of the hand where its fingers are around a cube of yaw 0
    skew: float  # rad, how far a hand in the States may be turned from straight down
    elbow: float  # m, height of the site elbow, below which it hangs

    @property
    def steps(self) -> Delta:
        """The action map of its joints."""
        return Delta(self.step, leash=self.leash)

    @property
    def errors(self) -> dict[str, Scale | Add]:
        """What differs from one robot of its kind to the next, for `randomize`."""
        return {"gain": Scale(*self.gain), "joint_offset": Add(-self.zero, self.zero, at=self.moving)}


PANDA = Robot(
    ROBOTS / "panda/panda.xml",
    joints=7,
    opened=0.04,
    closed=0.0,
    closing=20,
    edge=EDGE,
    fastest=(2.175,) * 4 + (2.61,) * 3,  # Franka's data sheet
    moving="joint*",
    step=0.04,
    leash=0.15,
    zero=0.003,
    gain=(0.9, 1.1),
    speeds=True,
    place=(0.5, 0.0),
    spread=0.08,
    top=0.2,
    turn=0.0,
    skew=0.002,
    elbow=0.4,
)
SO101 = Robot(
    ROBOTS / "so101/so101.xml",
    joints=5,
    opened=0.5,
    closed=-0.1745,
    closing=36,
    edge=0.025,
    fastest=(4.7,) * 5,  # so101.xml has its sources
    moving="[!g]*",
    step=0.08,
    leash=0.15,
    zero=0.02,
    gain=(0.5, 2.0),  # P_Coefficient 16 or 32, and what the sources differ by
    speeds=False,
    place=(0.24, 0.0),
    spread=0.07,
    top=0.115,
    turn=math.pi / 2,
    skew=0.3,
    elbow=0.12,
)
