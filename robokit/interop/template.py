"""The template of an adoption, JSON: what a foreign policy sees and moves. null: to be filled in.

It begins with what the file's metadata tells, as mjlab writes it, with 3 decimals; a filled in template may
have more of them, but must not contradict it. docs/adopt.md has every key.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np

from robokit.disk.read import EACH, check_types, read_json, short
from robokit.env.env import Env
from robokit.errors import DataError, did_you_mean, reason
from robokit.interop.foreign import ForeignGraph

OWN = "last_action"  # what a term reads that is the foreign policy's own previous action
LONGEST = 1000  # control periods of a stack
ROUNDED = 0.00051  # largest distance of a number from itself with 3 decimals
Numbers = float | list[float]  # one for all, or one each
LIST = {"joint_names": "joints", "default_joint_pos": "default", "action_scale": "scale"}
LIST |= {"joint_stiffness": "kp", "joint_damping": "kd", "observation_names": "terms"}  # mjlab's keys, ours
OF_TERM = {"scale": "observation_terms_scale", "clip": "observation_terms_clip"}
OF_TERM |= {"history": "observation_terms_history_length"}
NUMBER = float | list
TYPES = {
    **dict.fromkeys(("obs", "action"), str),
    **dict.fromkeys(("state", "names"), {EACH: str}),
    **{"joints": [str], "default": [float], "scale": NUMBER},
    **dict.fromkeys(("kp", "kd"), NUMBER | NoneType),
    **dict.fromkeys(("action_clip", "obs_clip"), float | None),
    "terms": [
        {"name": str, "term": str, "times": NUMBER, "scale": NUMBER, "history": int, "minus_default": bool}
        | dict.fromkeys(("clip", "columns"), list | None)
    ],
}


@dataclass(frozen=True)
class Term:
    """One term of the foreign observation: (times x - default) clipped, scaled, stacked."""

    name: str  # the foreign one, for messages
    term: str  # of the task's observation, or OWN
    times: Numbers = 1.0  # the foreign term before clip and scale is so many times the task's: a sign, a unit
    scale: Numbers = 1.0
    clip: list[float | None] | None = None
    history: int = 1
    minus_default: bool = False  # of joint positions
    columns: list[int] | None = None  # of the task's term; joints are put in the foreign order by name


@dataclass(frozen=True)
class Template:
    """A filled in template. Lengths: default as joints; scale, kp, kd as actions, in the order of joints."""

    obs: str  # the foreign input and output
    action: str
    joints: list[str]
    default: list[float]  # rad, of the joints: the pose of action 0
    scale: Numbers  # rad that an action of 1 adds
    terms: list[Term]
    kp: Numbers | None = None  # N m/rad
    kd: Numbers | None = None  # N m s/rad
    state: dict[str, str] = field(default_factory=dict[str, str])  # input -> output that is its next value
    names: dict[str, str] = field(default_factory=dict[str, str])  # foreign joint -> the model's
    action_clip: float | None = None
    obs_clip: float | None = None


def draft(graph: ForeignGraph, env: Env) -> dict[str, Any]:
    """A template with what the file tells and what names suggest, for a task's simulations."""
    taken = {
        name: other for name in graph.inputs if (other := name.removesuffix("_in") + "_out") in graph.outputs
    }
    left = (
        [n for n in graph.inputs if n not in taken],
        [n for n in graph.outputs if n not in taken.values()],
    )
    obs, action = (names[0] if len(names) == 1 else None for names in left)
    blank = {f.name: f.default if f.default is not MISSING else None for f in fields(Template)}
    known = blank | {"obs": obs, "action": action, "state": taken, "names": {}} | told_by(graph.metadata)
    known["terms"] = [_suggested(term, env) for term in known["terms"] or [{"name": None}]]
    offered = ", ".join(f"{name} {width}" for name, width in [*env.names.obs.items(), (OWN, "-")])
    numbers = ", ".join(f"{name} takes {sum(shape)}" for name, shape in graph.inputs.items())
    return {"about": f"{numbers} numbers; a term is one of: {offered}", **known}


def _suggested(term: Mapping[str, Any], env: Env) -> dict[str, Any]:
    name = str(term["name"])
    same = OWN if name in ("actions", OWN) else name if name in env.names.obs else None
    of_joints = name.removesuffix("_rel") == "joint_pos"  # of mjlab and Isaac Lab: less the default
    return asdict(Term(**{"term": same, "minus_default": of_joints, **term}))  # pyright: ignore


def told_by(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What mjlab's metadata tells, by our keys."""
    told: dict[str, Any] = {ours: _read(metadata[key]) for key, ours in LIST.items() if key in metadata}
    if "scale" in told and len(told["scale"]) == 1:
        told["scale"] = told["scale"][0]
    columns = {ours: _read(metadata[key]) for ours, key in OF_TERM.items() if key in metadata}
    if "terms" in told:
        rows = [{ours: column[i] for ours, column in columns.items()} for i in range(len(told["terms"]))]
        told["terms"] = [{"name": name, **row} for name, row in zip(told["terms"], rows, strict=True)]
        for term in told["terms"]:
            clip = term.get("clip")
            ends = [None if abs(x) == np.inf else x for x in clip] if isinstance(clip, list) else [None]
            term |= {"clip": None if ends == [None] * len(ends) else ends} if "clip" in term else {}
            term |= {"history": max(1, int(term["history"]))} if "history" in term else {}
    return told


def _read(text: str) -> list[Any]:
    """The values of a CSV text; those with semicolons are lists themselves."""

    def one(word: str) -> Any:
        try:
            return float(word)
        except ValueError:
            return word.strip()

    return [[one(w) for w in part.split(";")] if ";" in part else one(part) for part in text.split(",")]


def read_template(path: Path, graph: ForeignGraph) -> Template:
    """A filled in template. Raises DataError for what it lacks, what is unknown, and contradictions."""
    try:
        told = read_json(path)
    except OSError as error:
        raise DataError(f"cannot read the template {path}: {reason(error, path)}") from error
    check_types(told, dict, str(path))
    told = {key: value for key, value in told.items() if key != "about"}
    _check_keys(told, Template, str(path))
    for i, term in enumerate(told.get("terms") or []):
        _check_keys(term, Term, f"{path}: terms[{i}]")
    if empty := [*_empty(told)]:
        raise DataError(f"{path}: fill in {', '.join(empty)}")
    check_types(told, TYPES, str(path))
    made = Template(**{**told, "terms": [Term(**term) for term in told["terms"]]})
    for place, there, here in _contradictions(told_by(graph.metadata), asdict(made), ""):
        raise DataError(
            f"{path}: {place} is {short(here)}; the metadata of {graph.path.name} says {short(there)}"
        )
    for term in made.terms:
        _check_term(term, f"{path}: term {term.name!r}")
    _check_ends(made, graph, str(path))
    return made


def each(value: Any, count: int, name: str) -> list[float]:
    """`count` numbers: one for all, or one each. Raises DataError for others."""
    numbers = value if isinstance(value, list) else [value] * count
    check_types(numbers, [float], name)
    if len(numbers) != count:
        raise DataError(f"{name} must be one number, or {count}, got {len(numbers)}: {short(numbers)}")
    return [float(x) for x in numbers]


def _check_term(term: Term, name: str) -> None:
    check_types(term.columns or [], [int], f"{name}.columns")
    if not 1 <= term.history <= LONGEST:
        raise DataError(f"{name}.history must be from 1 to {LONGEST}, got {term.history}")
    if term.clip is not None:
        check_types(term.clip, [float | None], f"{name}.clip")
        low, high = term.clip if len(term.clip) == 2 else (1.0, 0.0)
        if low is not None and high is not None and not low < high:
            raise DataError(f"{name}.clip must be [low, high], a number or null each, got {short(term.clip)}")


def _check_keys(told: Any, kind: type, name: str) -> None:
    check_types(told, dict, name)
    known = [f.name for f in fields(kind)]
    for key in told:
        if key not in known:
            raise DataError(f"{name} has an unknown key {key!r}{did_you_mean(key, known)}; there are {known}")


def _empty(told: Mapping[str, Any], kind: type = Template, place: str = "") -> Iterator[str]:
    """Places of what has no default and is missing or null."""
    for f in fields(kind):
        if told.get(f.name) is None and f.default is MISSING and f.default_factory is MISSING:
            yield place + f.name
    for i, term in enumerate(told.get("terms") or []):
        yield from _empty(term, Term, f"terms[{i}].")


def _contradictions(there: Any, here: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """(place, metadata's value, template's) of each that is not the same with 3 decimals."""
    if isinstance(there, dict):
        for key in there:
            yield from _contradictions(there[key], here.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(there, list) or isinstance(here, list):
        pairs = [x if isinstance(x, list) else [x] * len(y) for x, y in ((there, here), (here, there))]
        for i, pair in enumerate(zip(*pairs, strict=False)):
            yield from _contradictions(*pair, f"{place}[{i}]")
        if len(pairs[0]) != len(pairs[1]):
            yield place, there, here
    elif isinstance(there, float) and isinstance(here, int | float):
        if abs(there - here) > ROUNDED:
            yield place, there, here
    elif there != here:
        yield place, there, here


def _check_ends(told: Template, graph: ForeignGraph, name: str) -> None:
    """Raise DataError unless the graph's inputs are the observation and the states, and fit their outputs."""
    inputs, outputs = [told.obs, *told.state], [told.action, *told.state.values()]
    if sorted(inputs) != sorted(graph.inputs):
        rule = "each input of the graph must be `obs` or a key of `state`"
        raise DataError(f"{name}: {rule}; named are {inputs}, the graph has {[*graph.inputs]}")
    if len({*outputs}) < len(outputs) or not {*outputs} <= {*graph.outputs}:
        rule = "`action` and the values of `state` must be outputs of the graph, each once"
        raise DataError(f"{name}: {rule}; named are {outputs}, the graph has {[*graph.outputs]}")
    for one, other in told.state.items():
        if graph.inputs[one] != graph.outputs[other]:
            shapes = graph.inputs[one], graph.outputs[other]
            raise DataError(
                f"{name}: state {one!r} has shape {shapes[0]}, its next value {other!r} {shapes[1]}"
            )
    if len(graph.inputs[told.obs]) != 1 or len(graph.outputs[told.action]) != 1:
        raise DataError(f"{name}: `obs` and `action` must be rows, (B, d)")


def write_draft(path: Path, told: Mapping[str, Any]) -> None:
    """Write a template. Raises OSError."""
    lines = [f' "{key}": {json.dumps(value)}' for key, value in told.items() if key != "terms"]
    terms = ",\n".join(f"  {json.dumps(term)}" for term in told["terms"])
    path.write_text("{\n" + ",\n".join([*lines, f' "terms": [\n{terms}\n ]']) + "\n}\n")
