"""Row `disk-full`: space, inodes, descriptors, file size or the right to write end during a training."""

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from reliability import jobs, kills
from reliability.child import Ended, command, forked
from reliability.faults import Before, Event, watch
from reliability.jobs import EACH, Job, Shared
from reliability.record import Facts, Place, Row, bad, judged

JOBS = kills.FEW
NEW = ("create", "mkdir", "symlink")  # changes that need an inode
GROW = (*NEW, "append", "write")  # changes that need space
REFUSALS: dict[str, tuple[int, tuple[str, ...]]] = {  # error, and the changes that meet it
    "no space": (errno.ENOSPC, GROW),
    "no space at fsync": (errno.ENOSPC, ("fsync",)),
    "no inode": (errno.ENOSPC, NEW),
    "quota": (errno.EDQUOT, GROW),
    "no descriptor": (errno.EMFILE, ("create", "append")),
    "read-only": (errno.EROFS, (*GROW, "rename", "unlink", "rmdir", "truncate")),
    "bad disk": (errno.EIO, (*GROW, "fsync")),
}
TURNS = ("no space", "tmpfs", "no space", "removed", "no space", "file size", "no space", "export", *REFUSALS)
GONE = ("metrics.jsonl", "config.json", "checkpoints", "checkpoints/0*", "best", "")


def prepare(home: Path, size: str) -> None:
    for job in JOBS:
        kills.uncut(home, job)


def trial(place: Place) -> Facts:
    kind, job = TURNS[place.number // len(JOBS) % len(TURNS)], JOBS[place.number % len(JOBS)]
    whole = json.loads((place.home / job.name / "uncut.json").read_text())
    jobs.lay(place.folder)
    at = place.rng.randint(1, whole["places"])
    what = f"{job.name}, {kind}"
    if kind == "export":
        return _export(place, job, what)
    if kind == "removed":
        return _removed(place, job, at, f"{what} at {at}", whole["state"])
    if kind == "tmpfs":
        size = place.rng.choice((4096, 8192, 16384, 32768, 65536, 131072))
        more = f"nr_inodes={place.rng.randint(3, 40)}" if place.rng.random() < 0.5 else f"size={size}"
        with _mounted(place.folder / "runs", more) as enlarge:
            if enlarge is None:
                return judged(f"{what}: not root, so not run", [])
            return _cut(place, job, lambda: None, f"{what} {more}", whole["state"], enlarge)
    if kind == "file size":
        most = place.rng.randint(200, 12_000)
        return _cut(place, job, lambda: limit(most), f"{what} {most} bytes", whole["state"])
    number, changes = REFUSALS[kind]

    def refuse() -> None:
        watch(Path("runs"), refusing(at, number, changes))

    return _cut(place, job, refuse, f"{what} at {at}", whole["state"])


def refusing(at: int, number: int, changes: tuple[str, ...]) -> Before:
    """A `before` that refuses such changes from the place `at` on."""
    count = Shared()

    def before(event: Event) -> None:
        count["places"] += 1
        if count["places"] >= at and event.kind in changes:
            raise OSError(number, os.strerror(number), event.path)

    return before


def limit(size: int) -> None:
    """No file of this process may become larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def typed(job: Job, before: Callable[[], None]) -> None:
    """Train as the command does: one line for robokit's own errors."""
    from robokit.errors import Error, tell

    before()
    try:
        jobs.go_on(job)
    except Error as error:
        tell(f"robokit: {error}")
        raise SystemExit(2) from None


def _cut(
    place: Place,
    job: Job,
    before: Callable[[], None],
    what: str,
    whole: Facts,
    after: Callable[[], object] = lambda: None,
) -> Facts:
    """A training that meets a full disk, and goes on when there is space."""
    ended = forked(lambda: typed(job, before), place.folder)
    faults = told(ended)
    after()
    if ended.code == 0:
        unhurt = forked(lambda: jobs.state(jobs.found() or ""), place.folder)
        found = unhurt.last if unhurt.code else jobs.differ(whole, unhurt.value)
        if found:
            return bad(what, f"not told: {found}", told=False)
    rest = forked(lambda: jobs.state(jobs.go_on(job)), place.folder)
    if rest.code:
        return bad(what, f"not gone on with: {rest.last}", told=ended.code == 2)
    faults += [found] if (found := jobs.differ(whole, rest.value)) else []
    faults += [f"left over: {left}"] if (left := kills.left(place.folder)) else []
    return judged(what, faults, told=ended.code == 2)


def told(ended: Ended) -> list[str]:
    """What is wrong with the end of a training whose disk is full: nothing, if one line says so."""
    if ended.crash:
        return [ended.crash]
    lines = [line for line in ended.text.splitlines() if line.startswith("robokit: ")]
    return ["no one-line error"] if ended.code and len(lines) != 1 else []


def _removed(place: Place, job: Job, at: int, what: str, whole: Facts) -> Facts:
    """Something of the run is removed behind its back: the next save or the next start says so."""
    pattern, count = place.rng.choice(GONE), Shared()

    def before(event: Event) -> None:
        count["places"] += 1
        if count["places"] != at:
            return
        for run in [*Path("runs").glob("*/2*")]:
            for path in [*run.glob(pattern)] if pattern else [run]:
                count["begun"] = 1
                _remove(path)

    ended = forked(lambda: typed(job, lambda: watch(Path("runs"), before)), place.folder)
    what = f"{what}: {pattern or 'the run'}"
    if not count["begun"]:
        return judged(f"{what}, which was not there", told(ended))
    faults, rest = told(ended), forked(lambda: typed_state(job), place.folder)
    faults += [rest.crash] if rest.crash else []
    text = ended.text + rest.text  # what goes after the last save is told by the next start
    said = "note:" in text or "skipped" in text or ended.code
    unequal = rest.code == 0 and jobs.differ(whole, rest.value)
    return judged(what, faults + ([f"not told: {unequal}"] if unequal and not said else []), told=bool(said))


def typed_state(job: Job) -> Facts:
    typed(job, lambda: None)
    return jobs.state(jobs.found() or "")


def _remove(path: Path) -> None:
    """With the system's own command: the process that is watched counts only its own changes."""
    subprocess.run(["rm", "-rf", str(path)], check=True)


def _export(place: Place, job: Job, what: str) -> Facts:
    """A full disk during an export leaves the older one whole."""
    run = forked(lambda: jobs.go_on(job, save_steps=EACH * 3), place.folder).value
    words = ["export", run, "-o", "out", "--episodes", "0"]
    first = command(words, place.folder)
    if first.code:
        return bad(what, first.text)
    out, at = place.folder / "out", place.rng.randint(1, 30)
    full = command(words, place.folder, before=lambda: watch(out, refusing(at, errno.ENOSPC, GROW)))
    name = next(out.glob("*.onnx"))
    check = command(["check", str(name)], place.folder)
    faults = [full.crash] if full.crash else []
    faults += [f"the older export is refused: {check.last}"] if check.code else []
    faults += [f"left over: {left}"] if (left := jobs.leftovers(out)) else []
    return judged(f"{what} at {at}", faults, told=full.code != 0)


@contextlib.contextmanager
def _mounted(folder: Path, options: str) -> Iterator[Callable[[], object] | None]:
    """A small disk of its own in memory; yields what makes it large, or None if this user may not mount."""
    folder.mkdir()
    mount = shutil.which("mount")
    words = [mount or "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if mount is None or os.geteuid() or subprocess.run(words, capture_output=True).returncode:
        yield None
        return
    larger = [mount, "-o", "remount,size=64m,nr_inodes=10000", str(folder)]
    try:
        yield lambda: subprocess.run(larger, check=True, capture_output=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def figure(found: list[Facts]) -> str:
    return f"{sum(facts.get('told', False) for facts in found)} told, the others met no refusal"


ROW = Row(
    "disk-full",
    "50 places x 3, inodes, file size, read-only, removed: told within one save, all go on afterwards",
    {"small": 12, "medium": 360, "night": 3000},
    trial,
    prepare=prepare,
    figure=figure,
)
