r"""What the arm tasks come to: success of the exported files, limits, and what each piece of the lift buys.

    python benchmarks/manipulation.py --list                    # rows done and missing, with commands
    python benchmarks/manipulation.py --row lift-clean-0
    python benchmarks/manipulation.py --minutes 95 --threads 1  # all missing rows, the most telling first

A row trains by `robokit train` in `runs/manipulation/ROW`, goes on there where it was stopped, evaluates the
exported file in 300 episodes of the task's own start, and is appended to benchmarks/curves/manipulation.jsonl
as soon as it is done; a row that is there is not run again. `reached` is the first validation (32 episodes)
with at least the row's target: steps, and minutes of training, compiling counted.

    TASK-clean-SEED, TASK-real-SEED   the tasks of SO-101 are called so101_reach and so101_lift
    TASK-free-SEED                    the real set-up without regard for its limits, which it then breaks
    plain, plain-menagerie            the file of lift-again-0 in benchmarks/plain_lift.py
    lift-WITHOUT-SEED                 the real lift without one of its pieces, 3.3 M steps; "recipe": with all
    TASK-sac-SEED                     the clean task by SAC
    TASK-again-SEED                   the real set-up from another row's policy, which is trained first

`filtered` is the same evaluation through a filter of the makers' joint speeds and torques (docs/filter.md).
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robokit.errors import Error
from robokit.evaluation.episodes import TIME
from robokit.evaluation.measure import evaluate
from robokit.export.bounds import resolve
from robokit.export.file import Exported
from robokit.task.lookup.find import load_task
from robokit.training.run import Run

HERE = Path(__file__).resolve().parent
RECORD, RUNS = HERE / "curves/manipulation.jsonl", Path("runs/manipulation")
PIECES = "benchmarks/manipulation_tasks.py"  # from the root of a clone, where this is started
EPISODES, VALIDATIONS = 300, 40
ROOT = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
TARGETS = {  # success, minutes of two quiet cores; None: stated
    "reach": ((0.99, 3), (0.99, 8)),
    "lift": ((0.99, 6), (0.98, 20)),
    "push": ((0.98, 8), (0.95, 20)),
    "stack": ((0.9, 40), (None, None)),
    "so101_reach": (None, (0.99, 8)),
    "so101_lift": (None, (0.95, 40)),
    "peg": ((0.8, 90), (None, None)),
}
SHORT = ("--steps", "3300000")  # 8 minutes of two quiet cores
WITHOUT = {  # the class, the options
    "recipe": ("arm_lift", ()),
    "delta": (f"{PIECES}:Absolute", ()),
    "leash": (f"{PIECES}:Unleashed", ()),
    "states": (f"{PIECES}:NoStates", ()),
    "above": (f"{PIECES}:NoAbove", ()),
    "around": (f"{PIECES}:NoAround", ()),
    "held": (f"{PIECES}:NoHeld", ()),
    "lifted": (f"{PIECES}:NoLifted", ()),
    "critic": ("arm_lift", ("--critic", "obs")),
    "fading": ("arm_lift", ("--entropy-coef", "0.004,0")),
    "gru": ("arm_lift", ("--belief", "gru")),
}
AGAIN = {  # the row that it starts from, the options
    "lift": ("lift-real", ("--steps", "3000000", "--lr", "3e-4,0", "--entropy-coef", "0", "--margin", "0.4")),
    "push": ("push-real", ("--steps", "3000000", "--lr", "3e-4,0", "--entropy-coef", "0", "--margin", "0.3")),
    "stack": ("lift-again", ("--steps", "5000000")),
}
SAC = ("--algo", "sac", "--num-envs", "64", "--gamma", "0.98", "--hidden", "256", "256", "--steps", "1000000")


@dataclass(frozen=True)
class Row:
    """One training and evaluation. parent: the row that it starts from; plain: a file without a training."""

    name: str
    task: str
    options: tuple[str, ...] = ()
    target: float | None = None
    minutes: float | None = None
    plain: bool = False
    parent: str | None = None

    @property
    def command(self) -> str:
        return f"python benchmarks/manipulation.py --row {self.name}"


def rows() -> list[Row]:
    """All rows, the most telling first."""

    def cells(seed: int, peg: bool) -> list[Row]:
        return [
            Row(f"{task}-{kind}-{seed}", place(task, kind), ("--seed", str(seed)), *goal)
            for task, goals in TARGETS.items()
            for kind, goal in zip(("clean", "real"), goals, strict=True)
            if goal is not None and (task == "peg") == peg and not (seed and task.startswith("so101"))
        ]

    def pieces(seed: int) -> list[Row]:
        more = (*SHORT, "--seed", str(seed))
        return [Row(f"lift-{name}-{seed}", task, (*more, *own)) for name, (task, own) in WITHOUT.items()]

    again = [
        Row(f"{t}-again-0", place(t, "real"), (*own, "--seed", "0"), *TARGETS[t][1], parent=f"{parent}-0")
        for t, (parent, own) in AGAIN.items()
    ]
    off = ("--limit-rule", "off", "--seed", "0")
    free = [Row(f"{t}-free-0", place(t, "real"), off) for t in TARGETS if t not in ("peg", "so101_reach")]
    plain = [Row(name, "arm_lift", plain=True) for name in ("plain", "plain-menagerie")]
    sac = [
        Row(f"{t}-sac-0", place(t, "clean"), (*SAC, "--seed", "0"), TARGETS[t][0][0])
        for t in ("reach", "push", "lift")
    ]
    first = [*cells(0, False), *again, *plain, *free, *cells(0, True), *pieces(0), *sac]
    return [*first, *cells(1, False), *pieces(1), *cells(2, False), *cells(1, True), *cells(2, True)]


def place(task: str, kind: str) -> str:
    """The name of a task's class."""
    own, arm = task.removeprefix("so101_"), ":So101" if task.startswith("so101_") else ""
    return f"arm_{own}{':Clean' if kind == 'clean' else arm}"


def recorded(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a record by name. Ends with a line about one that is not whole."""
    found: dict[str, dict[str, Any]] = {}
    content = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("it has no end")
            row = json.loads(line)
            found[row["row"]] = row
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{path}, line {number} is no whole row: {error!r}; remove it") from None
    return found


def append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def train(row: Row, options: argparse.Namespace, left: float | None) -> Path:
    """Train a row, or go on with it; returns its run. Ends if it is stopped, or after `left` s."""
    folder = options.runs / row.name
    begun = sorted(folder.glob("*/latest"))
    where = ["--runs", str(folder), "--validations", str(VALIDATIONS), *row.options]
    where += ["--threads", str(options.threads), "--torch-threads", str(options.threads), *options.set]
    if row.parent is not None:
        parents = sorted((options.runs / row.parent).glob("*/latest"))
        if not parents:
            raise SystemExit(
                f"{row.name} starts from the run of {row.parent}, which is not in {options.runs}"
            )
        where += ["--init-from", str(parents[0].resolve())]
    command = ["train", row.task, *where]
    if begun:
        command = ["train", "--resume", str(begun[0]), "--task", row.task]
    print(f"{row.name}: robokit {' '.join(command)}", flush=True)
    with subprocess.Popen([sys.executable, "-m", "robokit", *command], env=ROOT) as child:
        try:
            code = child.wait(timeout=left)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGTERM)  # it saves
            code = child.wait()
        except SystemExit:  # this process is to end: so is the training
            child.terminate()
            raise
    if code < 0 or code > 128:
        raise SystemExit(f"{row.name} is stopped; it goes on with: {row.command}")
    if code:
        raise RuntimeError(f"robokit {' '.join(command)}: exit code {code}")
    return sorted(folder.glob("*/latest"))[0].resolve()


def measured(row: Row, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a finished run's file comes to."""

    opened, lines = Run.open(run), [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    seen = [x for x in lines if "validation/headline" in x]
    curve = [[x["steps"], round(x["seconds"] / 60, 2), round(x["validation/headline"], 3)] for x in seen]
    target = 1.0 if row.target is None else row.target
    seconds, steps = lines[-1]["seconds"], lines[-1]["steps"]
    return {
        "options": opened.config["options"] | {"algo": opened.config["algo"], "seed": opened.config["seed"]},
        "steps": steps,
        "seconds": round(seconds, 1),
        "steps_per_second": round(steps / seconds),
        "threads": [opened.config["threads"], opened.config["torch_threads"]],
        "commit": opened.about["commit"]["robokit"],
        "versions": opened.about["versions"],
        "reached": next((point for point in curve if point[2] >= target), None),
        **evaluated(run / "policy.onnx", row.task, options.episodes),
        "curve": curve,  # steps, minutes, success in validation
    }


def evaluated(file: Path, task: str, episodes: int, nominal: bool = False) -> dict[str, Any]:
    """Success, limits and return of a file in episodes of a task, without and with a filter."""

    robot: Any = load_task(task)
    opened = Exported.open(file)
    arm = [actuator["name"] for actuator in opened.contract["actuators"]][: robot.robot.joints]
    numbers: dict[str, Any] = {"slew": dict(zip(arm, robot.robot.fastest, strict=True))}
    if any(term["name"] == "joint_vel" for term in opened.contract["inputs"]):
        numbers["torque"] = dict.fromkeys(arm, "file")
    bounds = None if nominal else resolve(numbers, opened.contract, opened.sha256)
    report = evaluate(file, task, episodes, nominal=nominal, filter=bounds, threads=1)
    success, through = report.metrics["success"], report.filtered
    found: dict[str, Any] = {
        "episodes": episodes,
        "success": [round(x, 4) for x in (success["held"].mean, success["held"].low, success["held"].high)],
        "ever": round(success["ever"].mean, 4),
        "time": round(report.metrics[TIME]["s"].mean, 2) if report.metrics.get(TIME) else None,
        "return": round(report.returns.mean, 2),
        "limits": {name: [v.verdict, round(v.measured.value, 5)] for name, v in report.limits.items()},
    }
    if through is not None and through.headline.summary is not None:
        limits = {name: [v.verdict, round(v.measured.value, 5)] for name, v in through.limits.items()}
        acted = {name: round(share, 4) for name, share in through.shares.items() if share}
        found["filtered"] = {"success": through.headline.summary.mean, "limits": limits, "acted": acted}
    return found


def plain(row: Row, options: argparse.Namespace) -> dict[str, Any]:
    """The file of lift-again-0 in benchmarks/plain_lift.py, beside a nominal evaluation."""

    file = next(iter(sorted((options.runs / "lift-again-0").glob("*/latest/policy.onnx"))), None)
    if file is None:
        raise RuntimeError(f"{row.name} needs the file of the row lift-again-0, which has none yet")
    scene = options.runs / f"{row.name}.xml"
    spec: Any = load_task("arm_lift").model
    if row.name == "plain-menagerie":
        spec = of_menagerie(spec)
    spec.compile()
    scene.write_text(spec.to_xml())
    finer = ["--cone", "elliptic", "--impratio", "10", "--timestep", "0.002"]
    # decision 036: with impratio 10 the model's 20 iterations of a line search end too early
    searched = [*finer, "--ls-iterations", "50"]
    found = {"evaluate": evaluated(file.resolve(), "arm_lift", options.episodes, nominal=True)}
    other = "elliptic, impratio 10, 2 ms"
    for name, more in (("same", []), (other, finer), (f"{other}, 50 searches", searched)):
        script = [sys.executable, str(HERE / "plain_lift.py"), str(file), str(scene), *more]
        ran = subprocess.run([*script, "--episodes", str(options.episodes)], check=True, capture_output=True)
        found[name] = json.loads(ran.stdout)
    return found


def of_menagerie(ours: Any) -> Any:
    """The scene with the makers' Panda: the arm of menagerie, in the place of ours."""
    import mujoco

    root = os.environ.get("MENAGERIE_ROOT")
    arm = Path(root or "", "franka_emika_panda/mjx_panda.xml")
    if root is None or not arm.is_file():
        raise RuntimeError("plain-menagerie needs MENAGERIE_ROOT, the folder with franka_emika_panda/")
    spec = mujoco.MjSpec.from_file(str(arm))
    spec.meshdir = str(arm.parent / spec.meshdir)
    table = spec.worldbody.add_body(name="table")
    table.add_geom(name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[1, 1, 0.1])
    cube = ours.body("cube")
    body = spec.worldbody.add_body(name="cube", pos=cube.pos)
    body.add_freejoint(name="cube")
    body.add_site(name="cube")
    geom = cube.first_geom()
    contact = {"condim": geom.condim, "friction": geom.friction, "solref": geom.solref}
    body.add_geom(type=geom.type, size=geom.size, mass=geom.mass, **contact)
    for what in ("pos", "quat"):
        kind = getattr(mujoco.mjtSensor, f"mjSENS_FRAME{what.upper()}")
        spec.add_sensor(name=f"cube_{what}", type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname="cube")
    spec.option = ours.option
    keys, home = list(spec.keys), ours.key("home")
    for key in keys:
        spec.delete(key)
    spec.add_key(name="home", qpos=home.qpos, ctrl=home.ctrl)
    for mine, own in zip(spec.actuators, ours.actuators, strict=True):
        mine.name = own.name
    return spec


def run(row: Row, options: argparse.Namespace, left: float | None) -> None:
    """Run a row and append it to the record."""
    loads, began = os.getloadavg()[0], time.time()
    found = plain(row, options) if row.plain else measured(row, train(row, options, left), options)
    about: dict[str, Any] = {"row": row.name, "task": row.task, "target": row.target, "minutes": row.minutes}
    about |= {"date": time.strftime("%Y-%m-%d"), "load": loads, "torch": torch.__version__}
    about |= {"wall": round(time.time() - began, 1)}  # s since the last start
    append(options.record, about | found)
    success = found.get("success", found)
    print(f"{row.name}: success {success}, reached {found.get('reached')}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", help="only this one; may be repeated")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop and save after so many")
    parser.add_argument("--threads", type=int, default=0, help="of physics and torch; 0: as a training has")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--set", nargs=argparse.REMAINDER, default=[], help="options of a new training")
    options = parser.parse_args()
    known, done = {row.name: row for row in rows()}, recorded(options.record)
    if unknown := {*(options.row or ())} - known.keys():
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.record == RECORD and (options.set or options.episodes != EPISODES):
        parser.error("--set and --episodes make other rows: give them a --record and --runs of their own")
    wanted = [known[name] for name in options.row or known]
    if options.list:
        for row in wanted:
            print(f"done     {row.name}" if row.name in done else f"not run  {row.command}")
        return 0
    ends, failed = time.monotonic() + 60 * options.minutes, 0
    for row in wanted:
        if row.name in done:
            print(f"{row.name} is done", flush=True)
            continue
        if time.monotonic() >= ends:
            break
        try:
            run(row, options, None if math.isinf(ends) else ends - time.monotonic())
        except (Error, RuntimeError, subprocess.CalledProcessError) as error:
            print(f"{row.name}: {error}", flush=True)
            failed += 1
    missing = [row.command for row in wanted if row.name not in recorded(options.record)]
    print("\n".join(["missing:", *missing]) if missing else "all rows are done")
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main())
