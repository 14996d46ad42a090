"""Row `damage`: a run folder with one random damage, and what each command says about it."""

import copy
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reliability import jobs
from reliability.child import Ended, command, forked
from reliability.jobs import EACH, ITERATIONS, Job
from reliability.record import Facts, Place, Row, judged

JOBS = (Job("ppo", "gru", True), Job("sac", "stack", True))
MORE = str(EACH * (ITERATIONS + 2))  # steps of a resumed run
EPISODES = ["--episodes", "2", "--threads", "1"]
VERBS: dict[str, list[str]] = {  # RUN is the run's folder
    "evaluate": ["evaluate", "RUN", *EPISODES, "--json"],
    "check": ["check", "RUN"],
    "resume": ["train", "--resume", "RUN", "--steps", MORE, "--save-every", "0"],
    "export": ["export", "RUN", "-o", "out", "--episodes", "0"],
}
TURNS = ("evaluate", "check", "evaluate", "resume", "check", "evaluate", "export", "check")
HANG = 10.0  # s beside three times what the slowest command takes on a whole folder
TOLD = ("skipped", "note:", "lost", "damaged", "robokit:", "malformed", "cannot")
OURS = ("checkpoints/0", "checkpoints/segments", "best/", "policy.onnx")  # that a checksum covers


def prepare(home: Path, size: str) -> None:
    """A run of each job, exported, and what each command says and leaves while nothing is damaged."""
    for job in JOBS:
        folder = home / job.name
        folder.mkdir()
        jobs.lay(folder)
        run = forked(lambda job=job: jobs.go_on(job, save_steps=2 * EACH), folder).value
        assert not command(["evaluate", run, *EPISODES], folder).code
        facts: Facts = {"run": run}
        for verb in VERBS:
            copy = home / "copy"
            shutil.copytree(folder, copy, symlinks=True)
            ended = call(verb, run, copy)
            if ended.code:
                raise RuntimeError(f"{verb}: {ended.text}")
            facts[verb] = {"result": result(verb, run, copy, ended), "seconds": ended.seconds}
            facts[verb]["said"] = told(ended)
            shutil.rmtree(copy)
        (home / f"{job.name}.json").write_text(json.dumps(facts))


def call(verb: str, run: str, folder: Path, seconds: float = 120.0) -> Ended:
    words = [run if word == "RUN" else word for word in VERBS[verb]]
    return command(words, folder, seconds, before=jobs.small_iterations)


def result(verb: str, run: str, folder: Path, ended: Ended) -> Any:
    """What a command found or left, without the clock."""
    if verb == "resume":
        state = forked(lambda: jobs.state(run), folder)
        return state.value if state.code == 0 else f"no state: {state.last}"
    if verb == "export":
        policies = sorted((folder / "out").glob("*.safetensors"))
        return policies[0].read_bytes().hex()[-4000:] if policies else "no file"
    return ended.out.replace(os.path.realpath(folder), "")


def trial(place: Place) -> Facts:
    job, verb = place.rng.choice(JOBS), TURNS[place.number % len(TURNS)]
    whole = json.loads((place.home / f"{job.name}.json").read_text())
    folder, run = place.folder / "copy", whole["run"]
    shutil.copytree(place.home / job.name, folder, symlinks=True)
    others = place.folder / "others"  # someone else's files, which a link may lead to
    shutil.copytree(folder / run / "checkpoints", others)
    (others / "mine.txt").write_text("mine")
    before = _listing(others)
    name, damage = damaged(folder / run, others, place.rng)
    what = f"{job.name}, {verb}: {name} {damage}"
    usual = max(whole[turn]["seconds"] for turn in TURNS)  # `evaluate` exports what is damaged first
    ended = call(verb, run, folder, 3 * usual + HANG)
    faults = [ended.crash] if ended.crash else []
    if not faults:
        faults = judge(verb, name, ended, whole[verb], lambda: result(verb, run, folder, ended))
    faults += ["files that a link leads to were changed"] if _listing(others) != before else []
    return judged(what, faults, said=ended.last[-80:])


def told(ended: Ended) -> list[str]:
    """Lines that warn, without their figures."""
    lines = [re.sub(r"[\d.]+", "", line) for line in ended.text.splitlines()]
    return [line for line in lines if any(word in line for word in TOLD)]


def judge(verb: str, name: str, ended: Ended, whole: Facts, found: Callable[[], Any]) -> list[str]:
    """What is wrong with a command's end: nothing if it refused in words, said so, or found the same."""
    same, new = found() == whole["result"], [line for line in told(ended) if line not in whole["said"]]
    if verb == "check" and ended.code == 0 and same and covered(name):
        return ["silent: check finds nothing"]
    if verb != "check" and ended.code == 0 and not same and not new:
        return [f"silent: another result without a word: {ended.last}"]
    if ended.code and not ended.text.strip():
        return [f"exit code {ended.code} without a word"]
    refused = [line for line in ended.text.splitlines() if line.startswith("robokit: ")]
    if ended.code == 2 and len(refused) != 1:
        return [f"no one-line error: {ended.last}"]
    if ended.code == 2 and not any(part.rstrip("s") in refused[0] for part in Path(name).parts):
        return [f"names no file: {refused[0]}"]
    return []


def covered(name: str) -> bool:
    """Whether every damage of this file of a run can be seen: a checksum or a list has all of it."""
    return name.startswith(OURS) and "." in name and not name.endswith(".sha256")  # a digest, and a name


def _listing(folder: Path) -> list[tuple[str, bytes]]:
    return [(str(path), path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()]


# -- damages -----------------------------------------------------------------------------------------


def damaged(run: Path, others: Path, rng: random.Random) -> tuple[str, str]:
    """Damage one file or folder of a run; returns its name in the run and what was done."""
    every = sorted(path for path in run.rglob("*") if "tensorboard" not in path.parts)
    groups: dict[str, list[Path]] = {}  # so that many segments do not hide the few other files
    for path in every:
        groups.setdefault(f"{path.parent.name if path.is_dir() else path.suffix} {path.is_dir()}", []).append(
            path
        )
    path = rng.choice(groups[rng.choice(sorted(groups))])
    name = str(path.relative_to(run))
    if path.is_dir():
        return name, _of_folder(path, others, rng)
    if path.suffix in (".json", ".jsonl") and rng.random() < 0.5:
        return name, json_changed(path, rng)
    return name, _of_file(path, others, rng)


def _of_file(path: Path, others: Path, rng: random.Random) -> str:
    content = path.read_bytes()
    at, kind = rng.randrange(max(1, len(content))), rng.choice((*BYTES, *REPLACED, "delete"))
    if kind in BYTES:
        if kind == "twice" and path.name == "SHA256SUMS":  # the same list
            kind = "flip"
        path.write_bytes(BYTES[kind](content, at, rng))
        return f"{kind} at {at} of {len(content)}"
    path.unlink()
    if kind in REPLACED:
        REPLACED[kind](path, others)
    return kind


def _of_folder(path: Path, others: Path, rng: random.Random) -> str:
    kind = rng.choice((*REPLACED, "delete", "empty", "file"))
    shutil.rmtree(path)
    if kind in REPLACED:
        REPLACED[kind](path, others)
    elif kind == "empty":
        path.mkdir()
    elif kind == "file":
        path.write_bytes(b"a file")
    return kind


def _flipped(content: bytes, at: int, rng: random.Random) -> bytes:
    return (
        content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :] if content else b"x"
    )


def _zeroed(content: bytes, at: int, rng: random.Random) -> bytes:
    size = min(len(content) - at, rng.choice((1, 64, 512, 4096)))
    zeroed = content[:at] + bytes(size) + content[at + size :]
    return zeroed if zeroed != content else _flipped(content, at, rng)  # they may have been zeros


BYTES: dict[str, Callable[[bytes, int, random.Random], bytes]] = {
    "flip": _flipped,
    "truncate": lambda content, at, rng: content[:at],
    "zero": _zeroed,
    "empty": lambda content, at, rng: b"",
    "twice": lambda content, at, rng: content + content,
    "garbage": lambda content, at, rng: rng.randbytes(rng.choice((1, 100, 10_000))),
}
REPLACED: dict[str, Callable[[Path, Path], object]] = {
    "link to nothing": lambda path, others: path.symlink_to(others / "none"),
    "link to a folder": lambda path, others: path.symlink_to(others),
    "link to a file": lambda path, others: path.symlink_to(others / "mine.txt"),
    "link to itself": lambda path, others: path.symlink_to(path.name),
    "link to /dev/zero": lambda path, others: path.symlink_to("/dev/zero"),
    "FIFO": lambda path, others: os.mkfifo(path),
    "device": lambda path, others: _device(path),
    "folder": lambda path, others: path.mkdir(),
}


def _device(path: Path) -> None:
    """/dev/zero itself, where this user may make it; else a link to it."""
    try:
        os.mknod(path, 0o20666, os.makedev(1, 5))
    except PermissionError:
        path.symlink_to("/dev/zero")


# -- JSON --------------------------------------------------------------------------------------------

VALUES = (
    *(None, True, 0, -1, 1.5, 1e308, 10**400, 2**63, "", "x", [], {}, [[]], {"": None}),
    *("../../x", "\ud800", "a\nb", float("nan"), float("inf"), -0.0),
)


def json_changed(path: Path, rng: random.Random) -> str:
    """Change one value anywhere in a JSON file, or in one line of a JSONL file; returns which."""
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    if not lines:
        path.write_text("[]\n")
        return "[] in an empty file"
    k = rng.randrange(len(lines))
    if rng.random() < 0.1:
        lines[k] = deep(rng)
        path.write_text("\n".join(lines) + "\n")
        return f"line {k + 1}: {lines[k][:10]}... nested {len(lines[k])} deep"
    tree = json.loads(lines[k])
    where = mutate(tree, rng)
    lines[k] = json.dumps(tree, indent=None if len(lines) > 1 else 1)
    path.write_text("\n".join(lines) + "\n")
    return f"line {k + 1}: {where}" if len(lines) > 1 else where


def deep(rng: random.Random) -> str:
    """A value nested so deep that a recursive reader would run out of stack."""
    size = rng.choice((500, 5_000, 200_000))
    return rng.choice(("[" * size + "]" * size, '{"a":' * size + "1" + "}" * size, "[" * size))


def mutate(tree: Any, rng: random.Random) -> str:
    """Replace, delete, rename or add one entry of a tree of dicts and lists, in place; returns what."""
    nodes, names = _nodes(tree, "")
    k = rng.randrange(len(nodes))
    node, where = nodes[k], names[k]
    key: Any = rng.choice(sorted(node)) if isinstance(node, dict) and node else None
    key = rng.randrange(len(node)) if isinstance(node, list) and node else key
    kind = rng.choice(("replace", "replace", "replace", "delete", "add"))
    value = copy.deepcopy(rng.choice(VALUES))
    if key is None or (kind == "add" and isinstance(node, dict)):
        key, kind = ("extra", "add") if isinstance(node, dict) else (0, "append")
    if kind == "delete":
        del node[key]
    elif kind in ("append", "add") and isinstance(node, list):
        node.append(value)
    else:
        node[key] = value
    return f"{kind} {where}.{key}{'' if kind == 'delete' else f' = {str(value)[:20]!r}'}"


def _nodes(tree: Any, name: str) -> tuple[list[Any], list[str]]:
    """Every dict and list in a tree, and its place."""
    nodes, names = [tree], [name]
    children = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in children:
        if isinstance(value, dict | list):
            more = _nodes(value, f"{name}.{key}")
            nodes, names = nodes + more[0], names + more[1]
    return nodes, names


def figure(found: list[Facts]) -> str:
    kinds = (
        "traceback",
        "silent",
        "over its time",
        "over its memory",
        "no one-line",
        "names no file",
        "links",
    )
    why = [facts["why"] for facts in found if not facts["ok"]]
    return ", ".join(f"{kind} {count}" for kind in kinds if (count := sum(kind in text for text in why)))


ROW = Row(
    "damage",
    "1,000: typed with file, rule and value, or told fallback; 0 tracebacks, silent, hangs > 10 s",
    {"small": 16, "medium": 1000, "night": 10_000},
    trial,
    prepare=prepare,
    figure=figure,
)
