"""Robots by name: from a checkout or a verified cache, and never from the network."""

import hashlib
import json
import socket
from pathlib import Path

import pytest

from robokit.errors import ModelError
from robokit.sim.menagerie import menagerie
from robokit.sim.model import compile_model, load

package = pytest.importorskip("mujoco_menagerie")
XML = b'<mujoco model="go1"><worldbody><body><joint/><geom size=".1"/></body></worldbody></mujoco>'
ROBOT = "unitree_go1"


@pytest.fixture(autouse=True)
def away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, no checkout, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("MENAGERIE_ROOT", raising=False)
    monkeypatch.setenv("MENAGERIE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def robot_in(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("scene.xml", "go1.xml"):
        (folder / name).write_bytes(XML)
    return folder


def cached() -> Path:
    """A robot in the cache, as the package publishes it."""
    folder = robot_in(package.Cache().model_path(package.get(ROBOT)))
    files = {file.name: hashlib.sha256(XML).hexdigest() for file in folder.iterdir()}
    (folder / ".complete").write_text(json.dumps({"oid": "", "files": files}))
    return folder


def test_a_robot_of_a_checkout(away: Path, monkeypatch: pytest.MonkeyPatch):
    folder = robot_in(away / "checkout" / ROBOT)
    assert menagerie(ROBOT, folder=away / "checkout") == folder / "scene.xml"
    assert menagerie(ROBOT, "go1", away / "checkout") == folder / "go1.xml"
    monkeypatch.setenv("MENAGERIE_ROOT", str(away / "checkout"))
    assert compile_model(load(menagerie(ROBOT))).nq == 1


def test_a_robot_of_the_cache():
    folder = cached()
    assert menagerie(ROBOT) == folder / "scene.xml"


def test_a_changed_file_of_the_cache_is_refused():
    (cached() / "go1.xml").write_bytes(XML + b" ")
    with pytest.raises(ModelError, match=r"changed since its download \(go1.xml\): delete it, then mujoco"):
        menagerie(ROBOT)


@pytest.mark.parametrize(
    ("robot", "entry", "words"),
    [
        (ROBOT, None, "not downloaded here: mujoco-menagerie prefetch unitree_go1"),
        ("unitree_go9", None, "Unknown robot 'unitree_go9'.*unitree_go"),
        (ROBOT, "walk", "'?walk'?.*scene"),
    ],
)
def test_what_is_not_there_is_refused_with_the_way_to_get_it(robot: str, entry: str | None, words: str):
    with pytest.raises(ModelError, match=words):
        menagerie(robot, entry)


def test_a_robot_that_a_checkout_lacks_is_named(away: Path):
    with pytest.raises(ModelError, match=r"no robot 'unitree_go1' in .*go1/scene.xml is missing"):
        menagerie(ROBOT, folder=away)
