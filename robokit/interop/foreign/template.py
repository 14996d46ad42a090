"""The template of an adoption, JSON: what a foreign policy sees and moves. null: to be filled in.

It begins with what the file's metadata tells, as mjlab writes it, with 3 decimals. Filled in it may have more
of them, but must not contradict the metadata. docs/adopt.md has every key.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

from robokit.disk.read import EACH, check_types, read_json, short
from robokit.env.env import Env
from robokit.errors import DataError, did_you_mean, reason
from robokit.interop.foreign.graph import ForeignGraph

OWN = "last_action"  # a term that is the foreign policy's own previous action
LONGEST = 1000  # control periods of a stack
ROUNDED = 0.00051  # largest distance of a number from itself with 3 decimals
Numbers = float | list[float]  # one for all, or one each
# mjlab's keys -> ours, of the policy and of each term
TOLD = {"joint_names": "joints", "default_joint_pos": "default", "action_scale": "scale"}
TOLD |= {"joint_stiffness": "kp", "joint_damping": "kd"}
NAMES, OF_TERMS = "observation_names", "observation_terms_"
COLUMNS = {"scale": "scale", "clip": "clip", "history_length": "history"}
NUMBERS, FREE = float | list, float | list | NoneType
TERM = {"name": str, "term": str, "times": NUMBERS, "scale": NUMBERS, "history": int, "minus_default": bool}
TERM |= dict.fromkeys(("clip", "columns"), list | None)
TYPES = {"obs": str, "action": str, "state": {EACH: str}, "names": {EACH: str}, "joints": [str]}
TYPES |= {"default": [float], "scale": NUMBERS, "kp": FREE, "kd": FREE, "terms": [TERM]}
TYPES |= dict.fromkeys(("control_dt", "action_clip", "obs_clip"), float | None)


@dataclass(frozen=True)
class Term:
    """One term of the foreign observation: (times x - default) clipped, scaled, stacked."""

    name: str  # the foreign one, for messages
    term: str  # x, of the task's observation, or OWN
    times: Numbers = 1.0  # a sign or a unit, where the foreign term is so many times the task's
    minus_default: bool = False  # of joint positions
    clip: list[float | None] | None = None
    scale: Numbers = 1.0
    history: int = 1  # periods side by side, oldest first
    columns: list[int] | None = None  # of x; joints are put in the foreign order by name


@dataclass(frozen=True)
class Template:
    """A filled in template. Lengths: default as joints; scale, kp, kd as actions, in the order of joints."""

    obs: str  # the foreign input and output
    action: str
    joints: list[str]
    default: list[float]  # rad, the pose of action 0
    scale: Numbers  # rad that an action of 1 adds
    terms: list[Term]
    control_dt: float | None = None  # s
    kp: Numbers | None = None  # N m/rad
    kd: Numbers | None = None  # N m s/rad
    state: dict[str, str] = field(
        default_factory=dict[str, str]
    )  # input -> the output that is its next value
    names: dict[str, str] = field(default_factory=dict[str, str])  # foreign joint -> the model's
    action_clip: float | None = None  # actions within +- this, before all else
    obs_clip: float | None = None  # the whole observation too, after scales


def draft(graph: ForeignGraph, env: Env) -> dict[str, Any]:
    """A template with what the file tells and what names suggest, for a task's simulations."""
    state = {n: out for n in graph.inputs if (out := n.removesuffix("_in") + "_out") in graph.outputs}
    left = [n for n in graph.inputs if n not in state], [n for n in graph.outputs if n not in state.values()]
    obs, action = (names[0] if len(names) == 1 else None for names in left)
    known = told_by(graph.metadata)
    terms = [_suggested(term, env) for term in known.pop("terms", [{"name": None}])]
    sizes = ", ".join(f"{name} takes {math.prod(shape)}" for name, shape in graph.inputs.items())
    offered = ", ".join([*(f"{name} {width}" for name, width in env.names.obs.items()), OWN])
    blank = {f.name: None if f.default is MISSING else f.default for f in fields(Template)}
    blank |= {"about": f"{sizes}; a term is one of: {offered}", "obs": obs, "action": action, "names": {}}
    return blank | known | {"state": state, "terms": terms}


def _suggested(told: Mapping[str, Any], env: Env) -> dict[str, Any]:
    name = str(told["name"])
    term = OWN if name in ("actions", OWN) else name if name in env.names.obs else None
    relative = name in ("joint_pos", "joint_pos_rel")  # mjlab's and Isaac Lab's are less the default
    return asdict(Term(**{"term": term, "minus_default": relative, **told}))


def told_by(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What mjlab's metadata tells, by our keys."""
    told: dict[str, Any] = {ours: _read(metadata[key]) for key, ours in TOLD.items() if key in metadata}
    if NAMES in metadata:
        columns = {ours: _read(metadata.get(OF_TERMS + key, "")) for key, ours in COLUMNS.items()}
        told["terms"] = [{"name": name} for name in _read(metadata[NAMES])]
        for i, term in enumerate(told["terms"]):
            term |= {
                ours: column[i] for ours, column in columns.items() if i < len(column) and column[i] != ""
            }
            ends = [None if abs(x) == math.inf else x for x in term.get("clip", [])]
            term |= {"clip": ends if any(x is not None for x in ends) else None} if ends else {}
            term |= {"history": max(1, int(term["history"]))} if "history" in term else {}
    return told


def _read(text: str) -> list[Any]:
    """The values of a CSV text; those with semicolons are lists."""

    def one(word: str) -> Any:
        try:
            return float(word)
        except ValueError:
            return word.strip()

    return [[one(w) for w in part.split(";")] if ";" in part else one(part) for part in text.split(",")]


def write_draft(path: Path, told: Mapping[str, Any]) -> None:
    """Write a template, a line for each key and each term. Raises OSError."""
    terms = ",\n".join(f"  {json.dumps(term)}" for term in told["terms"])
    lines = [f' "{key}": {json.dumps(value)}' for key, value in told.items() if key != "terms"]
    path.write_text("{\n" + ",\n".join([*lines, f' "terms": [\n{terms}\n ]']) + "\n}\n")


def read_template(path: Path, graph: ForeignGraph) -> Template:
    """A filled in template. Raises DataError for what it lacks, what is unknown, and contradictions."""
    try:
        told = read_json(path)
    except OSError as error:
        raise DataError(f"cannot read the template {path}: {reason(error, path)}") from error
    empty = _empty(told, Template, str(path), "")
    check_types(terms := told.get("terms") or [], list, f"{path}: terms")
    for i, term in enumerate(terms):
        empty += _empty(term, Term, f"{path}: terms[{i}]", f"terms[{i}].")
    if empty:
        raise DataError(f"{path}: fill in {', '.join(empty)}")
    check_types(told, TYPES, str(path))
    told.pop("about", None)
    made = Template(**{**told, "terms": [Term(**term) for term in told["terms"]]})
    for place, there, here in _contradictions(told_by(graph.metadata), asdict(made), ""):
        source = f"the metadata of {graph.path.name} says {short(there)}"
        raise DataError(f"{path}: {place} is {short(here)}; {source}")
    for term in made.terms:
        _check_term(term, f"{path}: term {term.name!r}")
    _check_ends(made, graph, f"{path}:")
    return made


def each(value: Any, count: int, name: str) -> list[float]:
    """`count` numbers: one for all, or one each. Raises DataError for others."""
    numbers = value if isinstance(value, list) else [value] * count
    check_types(numbers, [float], name)
    if len(numbers) != count:
        raise DataError(f"{name} must be one number, or {count}, got {len(numbers)}: {short(numbers)}")
    return [float(x) for x in numbers]


def _empty(told: Any, kind: type, name: str, place: str) -> list[str]:
    """Places of what is needed and missing or null. Raises DataError for an unknown key."""
    check_types(told, dict, name)
    known = [f.name for f in fields(kind)]
    for key in told:
        if key not in known and (key, kind) != ("about", Template):
            raise DataError(
                f"{name} has an unknown key {key!r}{did_you_mean(key, known, f'there are {known}')}"
            )
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    return [place + key for key in needed if told.get(key) is None]


def _check_term(term: Term, name: str) -> None:
    check_types(term.columns or [], [int], f"{name}.columns")
    check_types(term.clip or [], [float | None], f"{name}.clip")
    low, high = term.clip if term.clip and len(term.clip) == 2 else (1.0, 0.0)
    if term.clip is not None and low is not None and high is not None and not low < high:
        raise DataError(f"{name}.clip must be [low, high], a number or null each, got {short(term.clip)}")
    if not 1 <= term.history <= LONGEST:
        raise DataError(f"{name}.history must be from 1 to {LONGEST}, got {term.history}")


def _contradictions(there: Any, here: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """(place, metadata's value, template's) of each that is not the same with 3 decimals."""
    if isinstance(there, dict):
        for key in there:
            yield from _contradictions(there[key], here.get(key), f"{place}.{key}".lstrip("."))
    elif isinstance(there, list) or isinstance(here, list):
        one, other = (x if isinstance(x, list) else [x] for x in (there, here))
        most = max(len(one), len(other))
        one, other = (x * most if len(x) == 1 else x for x in (one, other))
        for i, pair in enumerate(zip(one, other, strict=False)):
            yield from _contradictions(*pair, f"{place}[{i}]")
        if len(one) != len(other):
            yield place, there, here
    elif isinstance(there, float) and isinstance(here, int | float):
        if abs(there - here) > ROUNDED:
            yield place, there, here
    elif there != here:
        yield place, there, here


def _check_ends(told: Template, graph: ForeignGraph, name: str) -> None:
    """Raise DataError unless the graph takes the observation and states, and gives the next ones."""
    inputs, outputs = [told.obs, *told.state], [told.action, *told.state.values()]
    if sorted(inputs) != sorted(graph.inputs):
        rule = "each input of the graph must be `obs` or a key of `state`"
        raise DataError(f"{name} {rule}; named are {inputs}, the graph has {[*graph.inputs]}")
    if len({*outputs}) < len(outputs) or not {*outputs} <= {*graph.outputs}:
        rule = "`action` and the values of `state` must be outputs of the graph, each once"
        raise DataError(f"{name} {rule}; named are {outputs}, the graph has {[*graph.outputs]}")
    of, gives = graph.inputs, graph.outputs
    if (
        len(of[told.obs]) != 1
        or len(gives[told.action]) != 1
        or any(of[i] != gives[o] for i, o in told.state.items())
    ):
        rule = "`obs` and `action` must be rows, and a state of the shape of its next value"
        raise DataError(f"{name} {rule}; the graph takes {of} and gives {gives}")
