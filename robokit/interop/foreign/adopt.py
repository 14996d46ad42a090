"""A foreign policy, an ONNX file of mjlab, rsl_rl or Unitree, as a file like our own.

written, notes = adopt_policy("walk.onnx", "go2_walk", "walk.template.json", "policies/walk.onnx")

    seen = (times x - default) clipped, scaled, stacked, for each term x, joints in the foreign order
    a    = foreign graph(seen)
    ctrl = default + scale a, as far as the task's action map reaches

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
from robokit.interop.foreign.graph import ForeignGraph, read_foreign
from robokit.interop.foreign.template import OWN, ROUNDED, Template, Term, each, read_template
from robokit.learning.protocols import Foreign
from robokit.sim.facts.readings import actuators, channels, readings
from robokit.sim.model import names
from robokit.task.lookup.find import load_task, title
from robokit.task.task import Task

LOOK = 8  # control periods in which the columns of terms are compared with the joints
GAIN, POSE = 0.01, 1e-3  # kp, kd and control_dt may differ by this share; a pose by so much, unnamed
OVER = 1.01  # an action beyond it is beyond reach
NAMED, REFUSED = 0.01, 0.5  # shares of control periods in which an action is
SPEED = " velocity"  # of a joint, as `channels` names it


class Seen(nn.Module):
    """One term as the foreign policy sees it: columns (B, d) of our observation, or its own last action."""

    place: Tensor
    minus: Tensor
    times: Tensor
    scale: Tensor

    def __init__(self, term: Term, place: list[int] | None, width: int, minus: Any) -> None:
        super().__init__()
        self.own, self.width, self.clip, self.history = place is None, width, term.clip, term.history
        self.register_buffer("place", torch.tensor(place or [0]))
        for name, value in (("minus", minus), ("times", term.times), ("scale", term.scale)):
            numbers = torch.tensor(each(value, width, f"{name} of the term {term.name!r}"))
            self.register_buffer(name, numbers)

    def forward(self, obs: Tensor, raw: Tensor, kept: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """(columns (B, history d), oldest first; what to keep of them). An episode begins with copies."""
        now = self.times * (raw if self.own else obs.index_select(-1, self.place)) - self.minus
        now = (now if self.clip is None else now.clamp(*self.clip)) * self.scale
        past = torch.where(first, now.repeat(1, self.history - 1), kept)
        stack = torch.cat((past, now), -1) if self.history > 1 else now
        return stack, stack[:, self.width :]


class Adopted(Foreign):
    """The actor: action = shift + gain * foreign action of the joint, one for each of the task's actions."""

    joints: Tensor
    gain: Tensor
    shift: Tensor

    def __init__(
        self, graph: ForeignGraph, told: Template, terms: Sequence[Seen], acts: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.graph, self.told, self.terms = graph, told, nn.ModuleList(terms)
        self.shapes = [graph.inputs[name] for name in told.state]
        kept = [(term.history - 1) * term.width for term in terms]
        self.sizes = [*graph.outputs[told.action], *kept, *(torch.Size(s).numel() for s in self.shapes)]
        self.act_dim, self.belief_size = len(acts["joints"]), sum(self.sizes)
        for name, value in acts.items():
            self.register_buffer(name, value)
        self.beyond, self.periods, self.largest = torch.zeros(self.act_dim), 0, 0.0  # of targets, so far

    def forward(self, obs: Tensor, belief: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        told, first, rows = self.told, is_first[:, None], obs.shape[0]
        raw, *held = torch.where(first, 0.0, belief).split(self.sizes, -1)
        pairs = [term(obs, raw, past, first) for term, past in zip(self.terms, held, strict=False)]
        feed = {told.obs: _within(torch.cat([stack for stack, _ in pairs], -1), told.obs_clip)}
        for name, x, shape in zip(told.state, held[len(pairs) :], self.shapes, strict=True):
            feed[name] = x if len(shape) == 1 else x.view(rows, *shape).transpose(0, 1)
        raw, *state = self.graph.run([told.action, *told.state.values()], feed)
        raw = _within(raw, told.action_clip)
        action = self.shift + self.gain * raw.index_select(-1, self.joints)
        if not torch.onnx.is_in_onnx_export():
            self.beyond += (action.abs() > OVER).sum(0)
            self.periods, self.largest = self.periods + rows, max(self.largest, float(action.abs().max()))
        state = [x if x.dim() == 2 else x.transpose(0, 1).reshape(rows, -1) for x in state]
        return action.clamp(-1.0, 1.0), torch.cat((raw, *(past for _, past in pairs), *state), -1)

    def placed(self, model: Any) -> Any:
        return self.graph.placed(model)


def _within(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


class Adoption(NamedTuple):
    """The new file, and what differs from the task or was not checked, a line each."""

    written: Written
    notes: tuple[str, ...]


def adopt_policy(
    file: str | Path, task: str | Path | Task, template: str | Path, path: str | Path
) -> Adoption:
    """Write `path`, a file for this task whose policy is the foreign graph in `file`; see docs/adopt.md.

    template: a JSON file, begun by `draft`. Raises DataError for a file or template that is malformed or does
    not fit the other, OptionError for a file of robokit, ExportError where the task contradicts them, and as
    `export`.
    """
    graph = read_foreign(Path(file))
    if Path(path).exists() and graph.path.samefile(path):
        raise OptionError(f"{path} is the foreign file itself: write another")
    fit = Fit(graph, read_template(Path(template), graph), gate_env(load_task(task)))
    policy = fit.policy()
    recording = record(policy, fit.env)
    fit.check_reach(policy)
    known = {key: value for key, value in asdict(fit.told).items() if value not in (None, {})}
    known["terms"] = [{k: v for k, v in term.items() if v is not None} for term in known["terms"]]
    origin = {"package": "adopted", "file": graph.path.name, "sha256": graph.sha256, "template": known}
    written = export(policy, fit.env, path, recording=recording, origin=origin)
    return Adoption(written, tuple(fit.notes))


class Fit:
    """A foreign policy on a task's simulations, which are reset and stepped; `notes` fills with what differs.

    Raises ExportError, as its methods, for what does not fit.
    """

    def __init__(self, graph: ForeignGraph, told: Template, env: Env) -> None:
        self.graph, self.told, self.env, self.notes, model = graph, told, env, list[str](), env.sim.model
        self.rows, self.known = actuators(env.sim), {n: model.joint(n) for n in names(model, "joint") if n}
        self.acting = [i for i, kind in enumerate(env.map.kinds) if kind != "hold"]  # controls with an action
        plain = {name: name if name in self.known else name.removesuffix("_joint") for name in told.joints}
        self.joints = [(plain | told.names)[name] for name in told.joints]  # the model's, in foreign order
        default = each(told.default, len(self.joints), "default")
        self.pose = dict(zip(self.joints, default, strict=True))
        home, apart = model.key_qpos[0] if model.nkey else model.qpos0, list[str]()
        for name, x in self.pose.items():
            if name not in self.known or len(self.pose) < len(default):
                hint = f"each once{did_you_mean(name, self.known, '`names` maps foreign names to them')}"
                raise ExportError(f"{self.joints} must be joints of the model, {[*self.known]}, {hint}")
            joint, (low, high) = self.known[name], self.known[name].range
            if joint.limited[0] and not low - ROUNDED <= x <= high + ROUNDED:
                rule = f"the default of {name!r}, {x:g}, is beyond its range, {low:g} to {high:g}"
                raise ExportError(f"{rule}: are `default` and `joints` in one order?")
            if abs(x - (here := float(home[int(joint.qposadr[0])]))) > POSE:
                apart.append(f"{name} {x:g}, not {here:g}")
        if apart:
            self.notes.append(f"the default pose differs from the model's: {'; '.join(apart)}")
        if told.control_dt is None:
            self.notes.append("control_dt of the foreign policy is not known")
        elif abs(told.control_dt - env.task.control_dt) > GAIN * env.task.control_dt:
            rule = f"control_dt is {told.control_dt:g} s for the foreign policy"
            raise ExportError(f"{rule}, {env.task.control_dt:g} s in {title(env.task)}")

    def policy(self) -> Adopted:
        """The actor."""
        acts, found, told = self._actions(), _sources(self.env), self.told
        terms, (takes,) = [self._seen(term, found) for term in told.terms], self.graph.inputs[told.obs]
        if (width := sum(term.width * term.history for term in terms)) != takes:
            have = [f"{a.name} {b.width} x {b.history}" for a, b in zip(told.terms, terms, strict=True)]
            rule = f"the foreign {told.obs!r} takes {takes} numbers, the terms have {width}"
            raise ExportError(f"{rule}: {', '.join(have)}")
        return Adopted(self.graph, told, terms, acts).eval()

    def check_reach(self, policy: Adopted) -> None:
        """Note how far the targets of a recording went; most of one actuator's beyond reach are refused."""
        share = policy.beyond / policy.periods
        name, worst = self.rows[self.acting[int(share.argmax())]]["name"], float(share.max())
        text = f"targets of {name!r} are beyond the reach of the task's action map"
        if worst > REFUSED:
            raise ExportError(f"{text} in {worst:.0%} of control periods: a wrong scale, default or order?")
        if worst > NAMED:
            self.notes.append(
                f"{text} in {worst:.1%} of control periods, and clipped: give it a larger scale"
            )
        self.notes.append(f"actions span up to {policy.largest:.2f} of the task's reach")

    def _actions(self) -> dict[str, Tensor]:
        """`joints`, `gain` and `shift` of Adopted, of servos with the foreign gains."""
        told, rows, own = self.told, self.rows, self.env.map.to("cpu", torch.float64)
        of, (actions,) = {row["joint"]: i for i, row in enumerate(rows)}, self.graph.outputs[self.told.action]
        moved = [joint for joint in self.joints if joint in of]
        if len(moved) != actions:
            rule = f"the foreign policy has {actions} actions"
            raise ExportError(f"{rule}; of its joints the model drives {len(moved)}: {moved}")
        for i in sorted({*self.acting, *(of[joint] for joint in moved)}):
            servo = "kp" in rows[i] and rows[i]["unit"] in ("rad", "m")
            if rows[i]["joint"] not in moved or own.kinds[i] not in ("ctrl", "around") or not servo:
                rule = "must be a servo of position that one foreign action moves, by Ctrl() or Around()"
                raise ExportError(f"actuator {rows[i]['name']!r} {rule}, not {own.kinds[i]!r}")
        for key in ("kp", "kd"):
            if (value := getattr(told, key)) is None:
                self.notes.append(f"{key} of the foreign policy is not known: the contract has the model's")
                continue
            for joint, there in zip(moved, each(value, actions, key), strict=True):
                if abs(there - (here := rows[of[joint]][key])) > GAIN * abs(here) + ROUNDED:
                    rule = f"{key} of {joint!r} is {there:g} for the foreign policy, {here:g} in the model"
                    raise ExportError(f"{rule}: give the task's model the servos it was trained with")
        scale = each(told.scale, actions, "scale")
        if 0.0 in scale:
            raise ExportError(f"scale must not be 0, got {scale}")
        order = [moved.index(rows[i]["joint"]) for i in self.acting]
        default = torch.tensor([self.pose[moved[k]] for k in order], dtype=torch.float64)
        gain = torch.tensor([scale[k] for k in order], dtype=torch.float64) / own.half[self.acting]
        shift = (default - own.center[self.acting]) / own.half[self.acting]
        return {"joints": torch.tensor(order), "gain": gain.float(), "shift": shift.float()}

    def _seen(self, term: Term, found: Mapping[str, list[str | None]]) -> Seen:
        """One term of the foreign observation, its joints in the foreign order."""
        about, widths = f"term {term.name!r}", self.env.names.obs
        if term.term != OWN and term.term not in widths:
            there = f"it has {dict(widths)}, and {OWN!r}"
            hint = did_you_mean(term.term, widths, there)
            raise ExportError(f"{about}: {title(self.env.task)} has no observation {term.term!r}{hint}")
        of = found.get(term.term, [])
        ends = [end for end in ("", SPEED) if of and {*of} <= {name + end for name in self.known}]
        if (term.minus_default and ends != [""]) or (term.columns is not None and (ends or not of)):
            rule = "`minus_default` is for joint positions, `columns` for what are no joints' readings"
            raise ExportError(f"{about}: {rule}; {term.term!r} is {of or OWN}")
        if not of:
            return Seen(term, None, self.graph.outputs[self.told.action][0], 0.0)
        place = [*range(len(of))] if term.columns is None else term.columns
        wanted = [joint + end for end in ends for joint in self.joints]
        if wanted:
            place = [of.index(name) if name in of else -1 for name in wanted]
        elif len(place) == len(self.joints) and term.term not in self.env.task.commands:
            self.notes.append(f"{about}: the order of {term.term!r} is not checked: no joints' readings")
        if not all(0 <= k < len(of) for k in place):
            lack = f"columns {of}, not {wanted}" if wanted else f"{len(of)} columns, not {place}"
            raise ExportError(f"{about}: {term.term!r} has {lack}")
        begin = sum([*widths.values()][: [*widths].index(term.term)])
        minus = self.told.default if term.minus_default else 0.0
        return Seen(term, [begin + k for k in place], len(place), minus)


def _sources(env: Env) -> dict[str, list[str | None]]:
    """Of each term's columns: the joint whose position, or "joint velocity", it is bit for bit; or None."""
    rng, rows = torch.Generator().manual_seed(0), list[tuple[Tensor, Tensor]]()
    begin = int(env.sim.model.nsensordata)
    env.reset()
    for _ in range(LOOK):
        rows.append((env.obs.cpu(), readings(env.sim)[:, begin:].cpu()))
        env.step(2 * torch.rand(env.num_envs, env.act_dim, generator=rng) - 1)
    obs, joints = (torch.cat(column) for column in zip(*rows, strict=True))
    known, terms = channels(env.sim)[begin:], env.split(obs).items()
    return {n: [None if i is None else known[i].source for i in sources(x, joints)] for n, x in terms}
