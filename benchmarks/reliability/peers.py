"""Row `sb3`: the saves of Stable-Baselines3 and of torch under the same kills, over an older file."""

import signal
import zipfile
from pathlib import Path

from reliability.child import forked
from reliability.faults import watch
from reliability.jobs import Shared, kill_at
from reliability.record import Facts, Place, Row, bad

KINDS = ("sb3", "torch")


def trial(place: Place) -> Facts:
    """Save twice, the second time until a place; whether either file can be read afterwards."""
    kind, file = KINDS[place.number % 2], place.folder / f"{KINDS[place.number % 2]}.zip"
    count, shared = Shared(), Shared()
    whole = forked(lambda: _save(kind, file, 0, count), place.folder, 120.0)
    if whole.code and "ModuleNotFoundError" not in whole.last:
        return bad(kind, whole.text, kind=kind)
    if whole.code:
        return {"ok": True, "what": f"{kind}: not run: {whole.last[:100]}", "kind": kind}
    at = place.number // 2 % count["places"] + 1
    killed = forked(lambda: _save(kind, file, at, shared), place.folder, 120.0)
    if killed.signal != signal.SIGKILL:
        return bad(f"{kind}, place {at}", f"not killed: {killed.text}", kind=kind)
    lost = not readable(file)
    what = f"{kind}, place {at} of {count['places']}{': the file is lost' if lost else ''}"
    return {"ok": True, "what": what, "kind": kind, "lost": lost}


def _save(kind: str, file: Path, at: int, shared: Shared) -> None:
    import torch

    if kind == "torch":
        watch(file.parent, kill_at(at, shared))
        with file.open("wb") as opened:  # of the program that saves: torch's own writer is not Python
            torch.save(torch.nn.Linear(8, 8).state_dict(), opened)  # noqa: TID251  it is what is measured
        return
    import gymnasium
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", gymnasium.make("Pendulum-v1"), policy_kwargs={"net_arch": [8]}, device="cpu")
    watch(file.parent, kill_at(at, shared))
    model.save(file)


def readable(file: Path) -> bool:
    """Whether the archive and everything in it can be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def figure(found: list[Facts]) -> str:
    rows = []
    for kind in KINDS:
        tried = [facts for facts in found if facts.get("kind") == kind and "lost" in facts]
        lost = sum(facts["lost"] for facts in tried)
        rows.append(f"{kind}: {lost} of {len(tried)} lose the file" if tried else f"{kind}: not run")
    return ", ".join(rows)


ROW = Row(
    "sb3",
    "the same kills of SB3's save and torch's: how many lose the file",
    {"small": 4, "medium": 60, "night": 200},
    trial,
    figure=figure,
)
