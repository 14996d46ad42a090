"""Row `power`: what a disk may hold after a power cut, by POSIX's rules, and whether the run goes on from it.

A training's changes are recorded, cut after any of them, and replayed on an empty disk. A file's content is
what its last fsync made safe, and after that any part of what was written. Names are of two kinds of disk:

    posix    a folder has what its own last fsync made safe, and any selection of its changes since
    journal  as ext4, xfs and btrfs: any fsync makes all earlier changes of names safe; a first part of those
             since, in their order
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

from reliability import full, jobs, kills
from reliability.child import forked
from reliability.faults import Event, watch
from reliability.jobs import Shared
from reliability.record import Facts, Place, Row, bad, judged

JOBS = full.JOBS


@dataclass
class Inode:
    """A file, folder or link, and what of it is safe."""

    folder: bool = False
    link: str = ""
    content: bytes = b""
    safe: bytes = b""
    names: dict[str, "Inode"] = field(default_factory=dict)  # of a folder
    changes: list[tuple[int, "Changes"]] = field(default_factory=list)  # of names, with their time
    synced: int = 0  # time of the folder's last fsync


Changes = dict[str, Inode | None]  # of the names in a folder; None: gone


def _apply(names: dict[str, Inode], changes: Changes) -> None:
    for name, inode in changes.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


class Disk:
    """The files below a folder, as the process sees them and as a power cut may leave them."""

    def __init__(self, root: Path) -> None:
        self.root, self.top = root, Inode(folder=True)
        self.time = self.synced = 0  # of the last change, and of the last fsync of anything

    def at(self, path: str) -> Inode:
        inode = self.top
        for part in Path(path).relative_to(self.root).parts:
            inode = inode.names[part]
        return inode

    def change(self, folder: Inode, changes: Changes) -> None:
        folder.changes.append((self.time, changes))
        _apply(folder.names, changes)

    def happen(self, event: Event) -> None:
        """One change, as `faults.watch` tells it. A rename within a folder is one change, else two."""
        path, self.time = Path(event.path), self.time + 1
        if event.kind == "fsync":
            inode = self.at(event.path)
            inode.safe, inode.synced, self.synced = inode.content, self.time, self.time
            return
        parent, name = self.at(str(path.parent)), path.name
        if event.kind == "write":
            parent.names[name].content += event.content
        elif event.kind == "create" and name in parent.names:
            parent.names[name].content = b""
        elif event.kind in ("create", "append", "mkdir", "symlink"):
            if name not in parent.names:
                self.change(parent, {name: Inode(folder=event.kind == "mkdir", link=event.to)})
        elif event.kind in ("unlink", "rmdir"):
            if name in parent.names:
                self.change(parent, {name: None})
        elif event.kind == "rename":
            target, inode = Path(event.to), parent.names[name]
            if target.parent == path.parent:
                self.change(parent, {name: None, target.name: inode})
            else:
                self.change(self.at(str(target.parent)), {target.name: inode})
                self.change(parent, {name: None})

    def cut(self, kind: str, rng: random.Random) -> Inode:
        """The tree that one power cut leaves; a new one at each call."""
        return _cut(self.top, kind, rng.randint(self.synced, self.time), rng)


def _cut(inode: Inode, kind: str, journal: int, rng: random.Random) -> Inode:
    if inode.link:
        return Inode(link=inode.link)
    if not inode.folder:
        return Inode(content=_torn(inode, rng))
    names: dict[str, Inode] = {}
    for time, changes in inode.changes:
        if time <= journal if kind == "journal" else time <= inode.synced or rng.random() < 0.5:
            _apply(names, changes)
    return Inode(folder=True, names={name: _cut(child, kind, journal, rng) for name, child in names.items()})


def _torn(inode: Inode, rng: random.Random) -> bytes:
    """What is left of a file: its safe content, the new one, part of that, or zeros of its length."""
    if inode.content == inode.safe:
        return inode.safe
    part = inode.content[: rng.randint(0, len(inode.content))]
    appended = inode.content.startswith(inode.safe)
    part = inode.safe + inode.content[len(inode.safe) :][: len(part)] if appended else part
    zeros = (inode.safe if appended else b"").ljust(len(inode.content), b"\0")
    return rng.choice((inode.safe, inode.content, part, zeros))


def lay(inode: Inode, path: Path) -> None:
    """Write a tree to the real disk."""
    path.mkdir(exist_ok=True)
    for name, child in inode.names.items():
        where = path / name
        if child.link:
            where.symlink_to(child.link)
        elif child.folder:
            lay(child, where)
        else:
            where.write_bytes(child.content)


# -- the row -----------------------------------------------------------------------------------------


def trial(place: Place) -> Facts:
    job = JOBS[place.number % len(JOBS)]
    whole = kills.uncut_of(place, job)
    jobs.lay(place.folder)
    at, seed = place.rng.randint(1, whole["places"]), place.rng.randrange(1 << 30)
    disk = ("journal", "posix")[place.number // len(JOBS) % 2]
    cut = forked(lambda: _until(job, at, disk, seed, place.folder / "after"), place.folder)
    what = f"{job.name}, {disk} disk cut at {at}"
    if cut.code:
        return bad(what, cut.text)
    if cut.value is None:  # TensorBoard's thread may write once less than in the run that was counted
        return judged(f"{what}, which this run ended before", [], disk=disk, before="the end", saved=True)
    returned, kind = cut.value
    after = place.folder / "after"
    jobs.lay(after)
    newest = forked(kills.newest_step, after)
    rest = forked(lambda: jobs.state(jobs.go_on(job)), after)
    facts = {"disk": disk, "before": kind, "saved": returned >= 0}
    if newest.code or rest.code:
        return bad(what, f"not gone on with: {rest.last if rest.code else newest.last}", **facts)
    faults = []
    if returned > newest.value:
        faults.append(f"lost: step {returned} was saved, {newest.value} is left")
    faults += [found] if (found := jobs.differ(whole["state"], rest.value)) else []
    return judged(what, faults, **facts)


class Cut(Exception):
    """The power is gone."""


def _until(job: jobs.Job, at: int, kind: str, seed: int, after: Path) -> tuple[int, str] | None:
    """Train until the place `at`, lay what is on the disk; (step of the last save that returned, change)."""
    disk, shared, last = Disk(Path("runs").resolve()), Shared(), list[Event]()

    def before(event: Event) -> None:
        if last:
            disk.happen(last.pop())
        shared["places"] += 1
        if shared["places"] == at:
            raise Cut(event.kind)
        last.append(event)

    Path("runs").mkdir()
    watch(Path("runs"), before)
    try:
        jobs.go_on(job, shared=shared)
    except Cut as cut:
        tree = disk.cut(kind, random.Random(seed))
        shared["places"] = at + 1  # what is written from here on is another disk
        lay(Inode(folder=True, names={"runs": tree}), after)
        return shared["returned"] - 1, str(cut)
    return None


def prepare(home: Path, size: str) -> None:
    for job in JOBS:
        kills.uncut(home, job)


def figure(found: list[Facts]) -> str:
    saved = sum(facts.get("saved", False) for facts in found)
    failed = [f"{kind}: {_failed(found, kind)} failed" for kind in ("journal", "posix")]
    return f"{saved} of them after a save had returned; {', '.join(failed)}"


def _failed(found: list[Facts], kind: str) -> int:
    return sum(facts.get("disk") == kind and not facts["ok"] for facts in found)


ROW = Row(
    "power",
    "200 cuts of the recorded writes and fsyncs: 0 lost after the last save that returned",
    {"small": 12, "medium": 200, "night": 5000},
    trial,
    prepare=prepare,
    figure=figure,
)
