"""A foreign policy, an ONNX file of mjlab, rsl_rl or Unitree, as a file like our own.

written, notes = adopt_policy("walk.onnx", "go2_walk", "walk.json", "policies/walk.onnx")

    seen  = (term - default) clipped, scaled, stacked, in the order of the foreign joints
    a     = foreign graph(all that is seen)
    ctrl  = default + scale a, as far as the task's action map reaches

What is fed back (the foreign graph's own last action, stacks, h and c) is the belief, in `carry`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robokit.env.env import Env
from robokit.errors import ExportError, OptionError, did_you_mean
from robokit.export.fields import sources
from robokit.export.gate import record
from robokit.export.write import Written, export
from robokit.interop.adapted import gate_env
from robokit.interop.foreign import ForeignGraph, read_foreign
from robokit.interop.template import OWN, ROUNDED, Template, Term, each, read_template
from robokit.learning.protocols import Exploring, Foreign
from robokit.sim.facts.readings import actuators, channels
from robokit.task.lookup.find import load_task, title
from robokit.task.task import Task

LOOK = 8  # control periods in which the columns of terms are compared with the joints
GAIN, POSE = 0.01, 1e-3  # kp and kd may differ by this share; rad, of a pose, beyond its rounding
NAMED, REFUSED = 0.01, 0.5  # shares of control periods in which a target is beyond reach
Sources = Mapping[str, list[str | None]]  # of each term's columns: "FL_hip", "FL_hip velocity", None


class Seen(nn.Module):
    """One term as the foreign policy sees it: columns (B, d) of our observation, or its own last action."""

    minus: Tensor
    times: Tensor
    scale: Tensor

    def __init__(self, term: Term, place: list[int] | None, width: int, minus: Any) -> None:
        super().__init__()
        self.own, self.width, self.clip, self.history = place is None, width, term.clip, term.history
        self.register_buffer("place", torch.tensor(place or [0]))
        for name, value in (("minus", minus), ("times", term.times), ("scale", term.scale)):
            numbers = each(value, width, f"{name} of the term {term.name!r}")
            self.register_buffer(name, torch.tensor(numbers))

    def forward(self, obs: Tensor, raw: Tensor, kept: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """(columns (B, history d), oldest first; what to keep of them). An episode begins with copies."""
        now = raw if self.own else obs.index_select(-1, self.get_buffer("place"))
        now = self.times * now - self.minus
        now = (now if self.clip is None else now.clamp(*self.clip)) * self.scale
        past = torch.where(first, now.repeat(1, self.history - 1), kept)
        stack = torch.cat((past, now), -1) if self.history > 1 else now
        return stack, stack[:, self.width :]


class Adopted(Foreign):
    """The actor. joints: of each of our actions, the foreign one; map: action = shift + gain * foreign."""

    shift: Tensor
    gain: Tensor
    joints: Tensor

    def __init__(
        self, graph: ForeignGraph, ends: Template, terms: Sequence[Seen], acts: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.graph, self.ends, self.terms = graph, ends, nn.ModuleList(terms)
        (actions,) = graph.outputs[ends.action]
        self.act_dim = len(acts["joints"])
        self.shapes = [graph.inputs[name] for name in ends.state]
        kept = [(term.history - 1) * term.width for term in terms]
        self.sizes = [actions, *kept, *(torch.Size(shape).numel() for shape in self.shapes)]
        self.belief_size = sum(self.sizes)
        for name, value in acts.items():
            self.register_buffer(name, torch.as_tensor(value))
        self.beyond = torch.zeros(self.act_dim)  # how often each target was beyond reach, in `periods`
        self.periods, self.largest = 0, 0.0

    def forward(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        first, rows = is_first[:, None], obs.shape[0]
        held = torch.where(first, 0.0, belief).split(self.sizes, -1)
        raw, kept, state = held[0], held[1 : 1 + len(self.terms)], held[1 + len(self.terms) :]
        pairs = [term(obs, raw, past, first) for term, past in zip(self.terms, kept, strict=True)]
        seen, limit = torch.cat([columns for columns, _ in pairs], -1), self.ends.obs_clip
        feed = {self.ends.obs: seen if limit is None else seen.clamp(-limit, limit)}
        for name, x, shape in zip(self.ends.state, state, self.shapes, strict=True):
            feed[name] = x if len(shape) == 1 else x.view(rows, *shape).transpose(0, 1)
        raw, *state = self.graph.run([self.ends.action, *self.ends.state.values()], feed)
        limit = self.ends.action_clip
        raw = raw if limit is None else raw.clamp(-limit, limit)
        action = self.shift + self.gain * raw.index_select(-1, self.joints)
        if not torch.onnx.is_in_onnx_export():
            self.beyond += (action.abs() > 1 + 1e-6).sum(0)
            self.periods, self.largest = self.periods + rows, max(self.largest, float(action.abs().max()))
        state = [x if x.dim() == 2 else x.transpose(0, 1).reshape(rows, -1) for x in state]
        return action.clamp(-1.0, 1.0), torch.cat((raw, *(past for _, past in pairs), *state), -1)

    def placed(self, model: Any) -> Any:
        return self.graph.placed(model)


class Adoption(NamedTuple):
    """The new file, and what differs from the task or could not be checked, a line each."""

    written: Written
    notes: tuple[str, ...]


def adopt_policy(
    file: str | Path, task: str | Path | Task, template: str | Path, path: str | Path
) -> Adoption:
    """Write `path`, a file of this task whose policy is the foreign graph in `file`; see docs/adopt.md.

    template: the JSON file that `draft` begins. Raises DataError for a file or template that is malformed or
    does not fit the other, OptionError for a file of robokit, ExportError where the task's model contradicts
    them, and as `export`.
    """
    graph, path = read_foreign(Path(file)), Path(path)
    if path.exists() and path.samefile(graph.path):
        raise OptionError(f"{path} is the foreign file itself: write another")
    told, env = read_template(Path(template), graph), gate_env(load_task(task))
    notes = list[str]()
    policy = fitted(graph, told, env, notes)
    recording = record(policy, env)
    _check_reach(policy, env, notes)
    origin = {"package": "adopted", "file": graph.path.name, "sha256": graph.sha256, "template": asdict(told)}
    return Adoption(export(policy, env, path, recording=recording, origin=origin), tuple(notes))


def fitted(graph: ForeignGraph, told: Template, env: Env, notes: list[str]) -> Adopted:
    """The actor on the task's simulations; appends to `notes`. Raises ExportError for what does not fit."""
    model = env.sim.model
    known = {model.joint(i).name: i for i in range(model.njnt)}
    plain = {name: name if name in known else name.removesuffix("_joint") for name in told.joints}
    joints = [(plain | told.names)[name] for name in told.joints]
    for name, joint, value in zip(
        told.joints, joints, each(told.default, len(joints), "default"), strict=True
    ):
        if joint not in known or joints.count(joint) > 1:
            hint = f"{did_you_mean(joint, known)}; `names` maps foreign names to the model's"
            raise ExportError(f"joint {name!r} must be one of the model's, once; it has {[*known]}{hint}")
        low, high = model.jnt_range[known[joint]]
        if model.jnt_limited[known[joint]] and not low - ROUNDED <= value <= high + ROUNDED:
            rule = f"the default of {joint!r}, {value:g}, is beyond its range, {low:g} to {high:g}"
            raise ExportError(f"{rule}: are `default` and `joints` in one order?")
    (actions,), (takes,) = graph.outputs[told.action], graph.inputs[told.obs]
    acts, found = _actions(told, joints, env, notes, actions), _sources(env)
    terms = [_seen(term, told, joints, env, found, notes, actions) for term in told.terms]
    if (width := sum(term.width * term.history for term in terms)) != takes:
        parts = ", ".join(f"{t.name} {s.width} x {s.history}" for t, s in zip(told.terms, terms, strict=True))
        raise ExportError(f"the foreign {told.obs!r} takes {takes} numbers, the terms have {width}: {parts}")
    return Adopted(graph, told, terms, acts).eval()


def _actions(
    told: Template, joints: list[str], env: Env, notes: list[str], actions: int
) -> dict[str, Tensor]:
    """`joints`, `gain` and `shift` of Adopted. Raises ExportError unless each moves a servo of such gains."""
    rows, own = actuators(env.sim), env.map.to("cpu", torch.float64)
    of = {row["joint"]: i for i, row in enumerate(rows)}
    moved = [joint for joint in joints if joint in of]
    if len(moved) != actions:
        raise ExportError(f"the foreign policy has {actions} actions; of its joints the model drives {moved}")
    acting = [i for i, kind in enumerate(own.kinds) if kind != "hold"]
    for i in sorted({*acting, *(of[joint] for joint in moved)}):
        row, kind = rows[i], own.kinds[i]
        if row["joint"] not in moved or kind not in ("ctrl", "around"):
            raise ExportError(f"{row['name']!r} needs one foreign action, and Ctrl() or Around() in the task")
        if "kp" not in row or row["unit"] not in ("rad", "m"):
            raise ExportError(f"{row['name']!r} is no servo of position: a foreign action is a target of one")
    for key in ("kp", "kd"):
        if (value := getattr(told, key)) is None:
            notes.append(f"{key} of the foreign policy is not known: the contract has the model's")
            continue
        for joint, there in zip(moved, each(value, actions, key), strict=True):
            if abs(there - (here := rows[of[joint]][key])) > GAIN * abs(here) + ROUNDED:
                rule = (
                    f"{key} of {joint!r} is {there:g} for the foreign policy and {here:g} in the task's model"
                )
                raise ExportError(f"{rule}: give the model the servos that the policy was trained with")
    order = [moved.index(rows[i]["joint"]) for i in acting]
    scale = torch.tensor(each(told.scale, actions, "scale"), dtype=torch.float64)[order]
    if not bool((scale != 0).all()):
        raise ExportError(f"scale must not be 0, got {scale.tolist()}")
    pose = dict(zip(joints, told.default, strict=True))
    default = torch.tensor([pose[rows[i]["joint"]] for i in acting], dtype=torch.float64)
    _name_pose(env, pose, notes)
    half, center = own.half[acting], own.center[acting]
    return {
        "joints": torch.tensor(order),
        "gain": (scale / half).float(),
        "shift": ((default - center) / half).float(),
    }


def _name_pose(env: Env, pose: Mapping[str, float], notes: list[str]) -> None:
    """A note where the default differs from the model's pose: its first keyframe's, else its zero."""
    model = env.sim.model
    home = model.key_qpos[0] if model.nkey else model.qpos0
    here = {joint: float(home[int(model.joint(joint).qposadr[0])]) for joint in pose}
    if apart := [f"{j} {x:g}, not {here[j]:g}" for j, x in pose.items() if abs(x - here[j]) > POSE]:
        notes.append(f"the default pose differs from the model's: {'; '.join(apart)}")


class _Still(Foreign):
    belief_size = 0

    def __init__(self, act_dim: int) -> None:
        super().__init__()
        self.act_dim = act_dim

    def forward(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        return obs.new_zeros(len(obs), self.act_dim), belief


def _sources(env: Env) -> Sources:
    recording, known = record(Exploring(_Still(env.act_dim)), env, LOOK), channels(env.sim)
    begin = int(env.sim.model.nsensordata)  # joints by qpos and qvel
    values, readings = recording.obs.flatten(0, 1), recording.readings.flatten(0, 1)[:, begin:]
    found = {name: sources(columns, readings) for name, columns in env.split(values).items()}
    return {n: [None if i is None else known[begin + i].source for i in of] for n, of in found.items()}


def _seen(
    term: Term, told: Template, joints: list[str], env: Env, found: Sources, notes: list[str], actions: int
) -> Seen:
    """One term of the foreign observation, its joints in the foreign order."""
    minus, about = told.default if term.minus_default else 0.0, f"term {term.name!r}"
    if term.term == OWN:
        place, width, speed = None, actions, None
    elif (widths := env.names.obs).get(term.term) is None:
        hint = f"{did_you_mean(term.term, widths)}; it has {dict(widths)}, and {OWN!r}"
        raise ExportError(f"{about}: {title(env.task)} has no observation {term.term!r}{hint}")
    else:
        of, all_ = found[term.term], {env.sim.model.joint(i).name for i in range(env.sim.model.njnt)}
        speed = " velocity" if {*of} <= {f"{j} velocity" for j in all_} else "" if {*of} <= all_ else None
        place = [*range(len(of))] if term.columns is None else term.columns
        if speed is not None:
            place = [of.index(name) if (name := joint + speed) in of else -1 for joint in joints]
        elif len(place) == len(joints) and term.term not in env.task.commands:
            notes.append(
                f"{about}: the order of {term.term!r} is not checked, its columns are no joints' readings"
            )
        if not all(0 <= k < len(of) for k in place):
            raise ExportError(
                f"{about}: {term.term!r} has {of}, not columns {term.columns} or joints {joints}"
            )
        begin = sum(list(widths.values())[: [*widths].index(term.term)])
        place, width = [begin + k for k in place], len(place)
    if (term.minus_default and speed != "") or (term.columns is not None and speed is not None):
        rule = "`minus_default` is for joint positions, `columns` for what are no joints' readings"
        raise ExportError(f"{about}: {rule}; {term.term!r} is {found.get(term.term, OWN)}")
    return Seen(term, place, width, minus)


def _check_reach(policy: Adopted, env: Env, notes: list[str]) -> None:
    """Note how far targets go. Raises ExportError where one is beyond reach in most control periods."""
    share, row = policy.beyond / policy.periods, [a["name"] for a in actuators(env.sim)]
    names = [row[i] for i, kind in enumerate(env.map.kinds) if kind != "hold"]
    worst = int(share.argmax())
    text = f"targets of {names[worst]!r} are beyond the reach of the task's action map"
    if share[worst] > REFUSED:
        raise ExportError(
            f"{text} in {share[worst]:.0%} of control periods: a wrong scale, default or order?"
        )
    if share[worst] > NAMED:
        notes.append(f"{text} in {share[worst]:.1%} of control periods, and clipped: give it a larger scale")
    notes.append(f"actions span up to {policy.largest:.2f} of the task's reach")
