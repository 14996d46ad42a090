"""Robots of MuJoCo Menagerie by name, from its package's cache or a checkout; nothing is downloaded here."""

from pathlib import Path

from robokit.errors import ModelError


def menagerie(robot: str, entry: str | None = None, folder: Path | str | None = None) -> Path:
    """The MJCF of a robot, for a task's `model`: menagerie("unitree_go1").

    entry: another top-level file than the default scene, as "go1". folder: a checkout of MuJoCo Menagerie;
    None: the environment's MENAGERIE_ROOT, else the cache of the package mujoco-menagerie, whose files are
    checked against the digests of their download.

    Raises ModelError for an unknown robot or entry, and for one that is not there, with the command for it.
    """
    try:
        import mujoco_menagerie as package
    except ModuleNotFoundError as error:
        lack = "robots by name need the package mujoco-menagerie: pip install 'robokit[menagerie]'"
        raise ModelError(lack) from error
    cache = package.Cache(root=folder)
    try:
        found = package.get(robot)
        file = found.entry(entry).file
    except package.MenagerieError as error:
        raise ModelError(f"menagerie: {error}") from error
    if cache.root is not None:
        path = cache.root / found.name / file
        if not path.is_file():
            raise ModelError(f"no robot {robot!r} in {cache.root}: {path} is missing")
        return path
    command = f"mujoco-menagerie prefetch {robot}"
    if not cache.is_cached(found):
        raise ModelError(f"{robot!r} is not in the cache {cache.dir}, and is not downloaded here: {command}")
    if changed := cache.verify(found):
        folder = cache.model_path(found)
        rule = f"{folder} was changed since its download ({', '.join(changed[:3])})"
        raise ModelError(f"{rule}: delete it, then {command}")
    return cache.model_path(found) / file
