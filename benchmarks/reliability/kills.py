"""Row `kills`: SIGKILL at random instants and at every place at which a save changes the disk."""

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reliability import jobs
from reliability.child import command, forked
from reliability.faults import watch
from reliability.jobs import JOBS, Job, Shared, kill_at
from reliability.record import Facts, Place, Row, bad, judged

KINDS = (
    *("place", "instant", "place", "resume", "place", "export", "place", "torchrun", "evaluate", "place"),
    *("place", "instant", "place", "resume", "place", "play", "place", "instant", "export", "place"),
)
FEW = (Job("ppo", "gru", True), Job("sac", "stack"), Job("td3", "memoryless", True))  # of the small size
FILM = ["--seconds", "0.1", "--width", "32", "--height", "32"]
TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS = 8 * jobs.EACH  # of a training that two processes share


def prepare(home: Path, size: str) -> None:
    """Each job uncut: its state, its places, its seconds."""
    for job in jobs_of(size):
        uncut(home, job)


def uncut(home: Path, job: Job) -> None:
    """Train a job to its end, and keep in `home` what its cut trainings are compared with."""
    shared, folder = Shared(), home / job.name
    for kept in home.parent.glob(f"*/{job.name}/uncut.json"):  # by another row
        shutil.copytree(kept.parent, folder, symlinks=True)
        return
    folder.mkdir(parents=True)
    jobs.lay(folder)
    whole = forked(lambda: _uncut(job, shared), folder, 300.0)
    if whole.code:
        raise RuntimeError(whole.text)
    facts = {"state": whole.value, "places": shared["places"], "seconds": whole.seconds}
    (folder / "uncut.json").write_text(json.dumps(facts))


def _uncut(job: Job, shared: Shared) -> Any:
    watch(Path("runs"), kill_at(0, shared))
    return jobs.state(jobs.go_on(job, shared=shared))


def jobs_of(size: str) -> list[Job]:
    return [*FEW] if size == "small" else JOBS


def trial(place: Place) -> Facts:
    kind = KINDS[place.number % len(KINDS)]
    if kind == "torchrun" and place.size != "small":  # half a minute each
        return _together(place)
    if kind in ("export", "evaluate", "play"):
        return _files(kind, place)
    jobs_here = jobs_of(place.size)
    if kind == "place":
        job, at = _pair(place, jobs_here)
    else:
        job = place.rng.choice(jobs_here)
        at = place.rng.randrange(1, uncut_of(place, job)["places"] // 3)
    return _training("instant" if kind == "torchrun" else kind, job, at, place)


def uncut_of(place: Place, job: Job) -> Facts:
    return json.loads((place.home / job.name / "uncut.json").read_text())


def _pair(place: Place, jobs_here: list[Job]) -> tuple[Job, int]:
    """Of all pairs of a job and a place, in a shuffled order that all trials share."""
    pairs = [(job, at) for job in jobs_here for at in range(1, uncut_of(place, job)["places"] + 1)]
    random.Random(0).shuffle(pairs)
    turn = place.number // len(KINDS) * KINDS.count("place") + KINDS[: place.number % len(KINDS)].count(
        "place"
    )
    return pairs[turn % len(pairs)]


def _training(kind: str, job: Job, at: int, place: Place) -> Facts:
    """A training that is killed, looked at, and gone on with to its end."""
    whole, shared, folder = uncut_of(place, job), Shared(), place.folder
    jobs.lay(folder)
    if kind == "resume":
        forked(lambda: jobs.go_on(job, jobs.EACH * (jobs.ITERATIONS // 2), shared=shared), folder)
    instant, seen = place.rng.uniform(0, whole["seconds"] * 0.9), list[float]()

    def cut() -> None:
        if kind != "instant":
            watch(Path("runs"), kill_at(at, shared))
        jobs.go_on(job, shared=shared)

    def kill(pid: int) -> None:
        if shared["begun"] and not seen:
            seen.append(time.monotonic())
        if seen and time.monotonic() - seen[0] > instant:
            os.kill(pid, signal.SIGKILL)

    killed = forked(cut, folder, watch=kill if kind == "instant" else None)
    what = f"{job.name}, {kind} {f'{instant:.2f} s' if kind == 'instant' else at}"
    facts = {"killed": killed.signal == signal.SIGKILL, "inside": shared["inside"]}
    if not facts["killed"] and killed.code:
        return bad(what, killed.text, **facts)
    newest = forked(newest_step, folder)
    rest = forked(lambda: jobs.state(jobs.go_on(job)), folder)
    if rest.code or newest.code:
        return bad(what, f"not gone on with: {rest.text or newest.text}", **facts)
    lost = shared["returned"] - 1 > newest.value
    faults = [f"lost: step {shared['returned'] - 1} was saved, {newest.value} is left"] if lost else []
    faults += [found] if (found := jobs.differ(whole["state"], rest.value)) else []
    faults += [f"left over: {found}"] if (found := left(folder)) else []
    return judged(what, faults, **facts)


def newest_step() -> int:
    """The step of the newest good checkpoint; -1 without any. One that is skipped is an error."""
    from robokit.training.run import Run

    path = jobs.found()
    if path is None:
        return -1
    checkpoint, skipped = Run.open(path).newest()
    if skipped:
        raise RuntimeError(f"a kill left a bad checkpoint: {skipped}")
    return checkpoint.steps if checkpoint else -1


def left(folder: Path) -> list[str]:
    """Leftovers in the run that went on, and of the link beside it; not of a run that never began."""
    run = sorted((folder / "runs").glob("*/2*/config.json"))[-1].parent
    return jobs.leftovers(run) + [path.name for path in run.parent.glob(".*")]


def _files(kind: str, place: Place) -> Facts:
    """An export, or an evaluation or a film that exports, killed while it writes, and called again."""
    job, folder, shared, count = place.rng.choice(FEW), place.folder, Shared(), Shared()
    jobs.lay(folder)
    run = Path(forked(lambda: jobs.go_on(job), folder).value)
    out = folder / "out" if kind == "export" else folder / run
    words = {
        "export": ["export", str(run), "-o", "out", "--episodes", "0"],
        "evaluate": ["evaluate", str(run), "--episodes", "2", "--threads", "1", "--json"],
        "play": ["play", str(run), *FILM],
    }[kind]
    whole = command(words, folder, before=_watching(out, 0, count))
    policies = [*out.glob("*.onnx")]
    if whole.code or not policies:
        return bad(kind, whole.text)
    again, before = place.rng.random() < 0.5 and kind == "export", policies[0].read_bytes()
    if not again:
        for path in (*out.glob("*.onnx*"), *out.glob("policy.*"), *out.glob("slide*"), *out.glob("*.mp4")):
            path.unlink(missing_ok=True)
    at = place.rng.randint(1, max(1, count["places"]))
    killed = command(words, folder, before=_watching(out, at, shared))
    what = f"{job.name}, {kind} {at} of {count['places']}{', over an older one' if again else ''}"
    facts = {"killed": killed.signal == signal.SIGKILL, "inside": int(killed.signal == signal.SIGKILL)}
    there = command(["check", str(policies[0])], folder) if policies[0].exists() else None
    rest = command(words, folder, before=blank)
    faults = [killed.crash] if killed.crash and not facts["killed"] else []
    faults += [f"what the kill left is refused: {there.last}"] if there and there.code else []
    faults += ["the older export is gone"] if again and there is None else []
    if rest.code:
        faults.append(f"not gone on with: {rest.last}")
    elif _weights(before) != _weights(policies[0].read_bytes()) or rest.out != whole.out:
        faults.append("unequal to the uncut")
    faults += [f"left over: {found}"] if (found := jobs.leftovers(out)) else []
    return judged(what, faults, **facts)


def _watching(out: Path, at: int, shared: Shared) -> Callable[[], None]:
    def before() -> None:
        blank()
        watch(out, kill_at(at, shared))

    return before


class Blank:
    """Black pictures, where there may be nothing that renders."""

    def __init__(self, sim: object, width: int, height: int) -> None:
        self._picture = np.zeros((height, width, 3), np.uint8)

    def __enter__(self) -> "Blank":
        return self

    def __exit__(self, *error: object) -> None: ...

    def frame(self) -> np.ndarray:
        return self._picture


def blank() -> None:
    """From now on films of this process are black."""
    from robokit.show import film

    setattr(film, "Camera", Blank)  # noqa: B010


def _together(place: Place) -> Facts:
    """Two processes of torchrun, killed at an instant after the first save, and started again."""
    kept = place.home / "together.json"
    if not kept.exists():
        folder = place.home / "together"
        folder.mkdir()
        jobs.lay(folder)
        began = time.monotonic()
        _two(folder, _words(), math.inf)
        seconds = time.monotonic() - began
        kept.write_text(json.dumps({"state": _states(folder), "seconds": seconds}))
    whole, folder = json.loads(kept.read_text()), place.folder
    jobs.lay(folder)
    instant = place.rng.uniform(0.0, 0.2 * whole["seconds"])
    killed = _two(folder, _words(), instant)
    what = f"two processes, {instant:.2f} s after the first save"
    run = next(iter(folder.glob("runs/*/2*")))
    text = _two(folder, ["train", "--resume", str(run.relative_to(folder)), "--save-every", "0"], math.inf)
    try:
        faults = [found] if (found := jobs.differ(whole["state"], _states(folder))) else []
    except RuntimeError as error:
        faults = [f"{error}; {text[-200:]}"]
    faults += [f"left over: {found}"] if (found := left(folder)) else []
    return judged(what, faults, killed=killed == "", inside=0)


def _words() -> list[str]:
    options = {"algo": "ppo", "num-envs": 2, "horizon": 8, "minibatch": 8, "epochs": 1, "hidden": 8}
    options |= {"steps": STEPS, "save-every": 0, "threads": 1, "torch-threads": 1, "compile": False}
    return ["train", "tasks/slide.py:Slide", *(f"--{name}={value}" for name, value in options.items())]


def _two(folder: Path, words: list[str], instant: float) -> str:
    """Run a command in two processes; "": killed so many seconds after the first save; else what was said."""
    said = folder.parent / "said-by-two"
    with said.open("wb") as output:
        command = [*TOGETHER, "-m", "robokit.cli.command", *words]
        group = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
        saved = math.inf
        while group.poll() is None:
            if saved == math.inf and any(folder.glob("runs/*/2*/checkpoints/rank1/0*")):
                saved = time.monotonic()
            if time.monotonic() - saved > instant:
                for pid in _family(group.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                group.wait()
                return ""
            time.sleep(0.01)
    return said.read_text(errors="replace") or "nothing"


def _family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = children.read_text().split() if children.exists() else []
    return [pid, *(one for child in below for one in _family(int(child)))]


def _states(folder: Path) -> Any:
    """The state that process 0 has left, through JSON, and the tensors of process 1."""

    def both() -> Any:
        from robokit.disk.checkpoint import newest

        path = jobs.found()
        assert path is not None
        other, _ = newest(path / "checkpoints/rank1")
        return jobs.state(path) | {
            f"rank1/{k}": jobs.digest(v) for k, v in (other.tensors if other else {}).items()
        }

    ended = forked(both, folder)
    if ended.code:
        raise RuntimeError(ended.last)
    return ended.value


def _weights(content: bytes) -> list[bytes]:
    import onnx

    return [tensor.SerializeToString() for tensor in onnx.load_from_string(content).graph.initializer]


def figure(found: list[Facts]) -> str:
    killed = sum(facts.get("killed", False) for facts in found)
    inside = sum(bool(facts.get("inside") and facts.get("killed")) for facts in found)
    return f"{killed} killed, {inside} of them inside a save ({inside / max(1, killed):.0%})"


ROW = Row(
    "kills",
    "300: 0 lost, 0 unequal, 0 leftovers; 30 % or more inside a save",
    {"small": 10, "medium": 300, "night": 3000},
    trial,
    prepare=prepare,
    figure=figure,
)
