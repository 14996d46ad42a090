"""Writes a lock: the pinned, hashed closure of some packages, as this environment holds them.

    python tools/lock.py dist/robot.lock numpy onnxruntime
    python tools/lock.py dist/requirements.lock robokit

Nothing is resolved anew: versions are those that are installed. robokit itself is left out, as its wheel
stands beside the lock. Hashes are those that the index states for all files of a version; a build with a
local version (torch 2.13.0+cpu) has that of its own file, from where pip finds it. Needs a network.
"""

import hashlib
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from urllib.request import Request, urlopen

from packaging.requirements import Requirement
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

OWN = "robokit"
FILES = "application/vnd.pypi.simple.v1+json"  # PEP 691: the index's list of files, with their sha256
USE = "pip install --require-hashes --only-binary :all: -r THIS_FILE"
Hashes = Callable[[str, Version], Iterable[str]]  # name, version -> sha256 of each file


def closure(names: Iterable[str]) -> dict[str, Version]:
    """Name -> installed version, of the packages and all that they require here, but robokit; sorted.

    Raises PackageNotFoundError for one that is not installed.
    """
    found, seen, left = dict[str, Version](), set[tuple[str, str]](), [Requirement(name) for name in names]
    while left:
        requirement = left.pop()
        package = distribution(requirement.name)
        name = canonicalize_name(package.metadata["Name"])
        found[name] = Version(package.version)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                left += _needed(package, extra)
    return {name: version for name, version in sorted(found.items()) if name != OWN}


def _needed(package: Distribution, extra: str) -> Iterator[Requirement]:
    """What a package requires on this machine, with one of its extras ("": without)."""
    for text in package.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement


def lock(packages: dict[str, Version], hashes: Hashes) -> str:
    """The text of a lock. Raises ValueError for a package without a hash."""
    here = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    builds = [f"{name} {version}" for name, version in packages.items() if version.local]
    rows = [f"# made with {', '.join([here, *builds])}", f"# {USE}"]
    for name, version in packages.items():
        digests = sorted({*hashes(name, version)})
        if not digests:
            raise ValueError(f"a lock needs a sha256 of each package: the index has no {name} {version}")
        rows.append(" \\\n    --hash=sha256:".join([f"{name}=={version}", *digests]))
    return "\n".join(rows) + "\n"


def published(name: str, version: Version) -> Iterator[str]:
    """sha256 of each file of a version in the index, or of the one file of a local version."""
    if version.local:
        with tempfile.TemporaryDirectory() as folder:
            _pip("download", "--quiet", "--no-deps", "--dest", folder, f"{name}=={version}")
            yield from (hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir())
        return
    with urlopen(Request(f"{_index()}/{name}/", headers={"Accept": FILES}), timeout=60) as answer:
        files = json.load(answer)["files"]
    for file in files:
        if _version(file["filename"]) == version:
            yield file["hashes"]["sha256"]


def _version(file: str) -> Version | None:
    """The version in a file's name; None for what is neither a wheel nor a source archive."""
    try:
        return parse_wheel_filename(file)[1] if file.endswith(".whl") else parse_sdist_filename(file)[1]
    except (InvalidSdistFilename, InvalidWheelFilename):
        return None


def _index() -> str:
    """The index that pip asks: its configuration's, else pip's own."""
    from pip._internal.models.index import PyPI

    listed = dict(line.split("=", 1) for line in _pip("config", "list").splitlines())
    named = (listed.get(f"{place}.index-url", "") for place in (":env:", "site", "user", "global"))
    return str(next(filter(None, named), PyPI.simple_url)).strip("'").rstrip("/")


def _pip(*words: str) -> str:
    pip = [sys.executable, "-m", "pip", *words]
    return subprocess.run(pip, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    output, *names = sys.argv[1:]
    Path(output).write_text(lock(closure(names), published))
    print(output)
