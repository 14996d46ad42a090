"""Row `kills`: SIGKILL at random instants and at every place at which a save changes the disk."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reliability import jobs
from reliability.child import command, forked
from reliability.faults import watch
from reliability.jobs import JOBS, Job, Shared, kill_at
from reliability.record import Facts, Place, Row, bad, judged

KINDS = ("place", "instant", "place", "resume", "place", "export", "place", "instant", "evaluate", "place")
FEW = 3  # jobs of the small size: one of each algorithm


def prepare(home: Path, size: str) -> None:
    """Each job uncut: its state, its places, its seconds."""
    for job in jobs_of(size):
        uncut(home, job)


def uncut(home: Path, job: Job) -> None:
    """Train a job to its end, and keep in `home` what its cut trainings are compared with."""
    shared, folder = Shared(), home / job.name
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
    if size != "small":
        return JOBS
    return [Job("ppo", "gru", True), Job("sac", "stack"), Job("td3", "memoryless", True)]


def trial(place: Place) -> Facts:
    kind = KINDS[place.number % len(KINDS)]
    if kind in ("export", "evaluate"):
        return _files(kind, place)
    jobs_here = jobs_of(place.size)
    if kind == "place":
        job, at = _pair(place, jobs_here)
    else:
        job = jobs_here[place.number // len(KINDS) % len(jobs_here)]
        at = place.rng.randrange(1, uncut_of(place, job)["places"] // 3)
    return _training(kind, job, at, place)


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
    """An export or an evaluation that exports, killed while it writes, and called again."""
    job = jobs_of(place.size)[place.number // len(KINDS) % FEW]
    folder, shared = place.folder, Shared()
    jobs.lay(folder)
    trained = forked(lambda: jobs.go_on(job), folder)
    run = Path(trained.value)
    out = folder / "out" if kind == "export" else folder / run
    words = ["export", str(run), "-o", "out", "--episodes", "0"]
    words = (
        words if kind == "export" else ["evaluate", str(run), "--episodes", "2", "--threads", "1", "--json"]
    )
    count = Shared()
    whole = command(words, folder, before=_watching(out, 0, count))
    again = place.rng.random() < 0.5 and kind == "export"  # over an older export
    policies = [*out.glob("*.onnx")]
    if whole.code or not policies:
        return bad(kind, whole.text)
    before = policies[0].read_bytes()
    if not again:
        for path in [*out.glob("*.onnx*"), *out.glob("policy.*"), *out.glob("slide*")]:
            path.unlink(missing_ok=True)
    at = place.rng.randint(1, max(1, count["places"]))
    killed = command(words, folder, before=_watching(out, at, shared))
    what = f"{job.name}, {kind} {at} of {count['places']}{', over an older one' if again else ''}"
    facts = {"killed": killed.signal == signal.SIGKILL, "inside": int(killed.signal == signal.SIGKILL)}
    there = command(["check", str(policies[0])], folder) if policies[0].exists() else None
    rest = command(words, folder)
    faults = [killed.crash] if killed.crash and not facts["killed"] else []
    faults += [f"what the kill left is refused: {there.last}"] if there and there.code else []
    if again and there is None:
        faults.append("the older export is gone")
    if rest.code:
        faults.append(f"not gone on with: {rest.last}")
    elif _weights(before) != _weights(policies[0].read_bytes()) or rest.out != whole.out:
        faults.append("unequal to the uncut")
    faults += [f"left over: {left}"] if (left := jobs.leftovers(out)) else []
    return judged(what, faults, **facts)


def _watching(out: Path, at: int, shared: Shared) -> Callable[[], None]:
    return lambda: watch(out, kill_at(at, shared))


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
