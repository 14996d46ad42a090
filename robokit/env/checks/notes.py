"""Doubts about a task that keeps the contract: what most often costs hours of training, as notes.

    note penetration    80 % of 128 starts, up to 'FR' and 'floor' by 21 mm: ...

Each note has a figure, measured in a short random rollout, and the line to change.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robokit.env.checks.laws import Finding, random_steps
from robokit.env.checks.stand_in import NotedMemory, StandIn
from robokit.env.env import Env
from robokit.errors import Error, TaskError
from robokit.sim.facts.carried import apart
from robokit.sim.facts.controls import controls, gear_of, is_disabled, range_keys
from robokit.sim.facts.readings import actuators
from robokit.sim.facts.starts import BEYOND, Fault, beyond_act, beyond_ranges, penetrations
from robokit.sim.facts.unmeasured import Unmeasured, find_unmeasured
from robokit.sim.quantities.write import OFFSET
from robokit.task.action import Ctrl, Delta, groups
from robokit.task.checks.guarded import call
from robokit.task.counts import goal_pair
from robokit.task.sense import Sense
from robokit.task.states import libraries
from robokit.task.task import Task

NUM_ENVS, RESETS = 32, 4  # simulations, and how often all of them start and take one control step
STEPS = 46  # control steps of the rollout after that
CAPPED, ENDED, AT_LIMIT, CLIPPED = 0.01, 0.01, 0.2, 0.1  # shares above which there is a note
AWAY = 0.05  # m, rad: of a joint from 0
SHIFTS = (100.0, -100.0)  # m, m/s, N: far from any value that a task compares with
POINTS, NEAR, REACHED = 100, 0.02, 0.9  # of a goal's region; m; share below which there is a note
SAME = 1e-4  # of an observation under such a shift: float32 rounds by less

Note = tuple[str, str]  # what it is about, and the text
TIGHT = 3.0  # times a sensor's noise: a shorter leash follows the noise


def find_notes(task: Task, seed: int = 0) -> list[Finding]:
    """A Finding with `note` for each doubt, of a task that keeps the laws; takes about 0.3 s.

    About starts (joint ranges, penetration, first step), the solver's iterations, torque at its limit under
    random actions, reward terms that stay constant, actions beyond ctrlrange, and observations that no sensor
    of a robot reads. What fails on the way is a note too, and nothing is raised.
    """
    found = _tried("notes", _all(task, seed))
    return [Finding(name, True, text, note=True) for name, text in found]


def _all(task: Task, seed: int) -> Iterator[Note]:
    env = Env(task, NUM_ENVS, seed=seed, threads=1)
    yield from _tried("range", _ranges(env))
    yield from _tried("starts", _starts(env, seed))
    in_training = Env(task, NUM_ENVS, seed=seed, threads=1, training=True) if libraries(task) else env
    yield from _tried("rollout", _rollout(in_training, seed))  # where states lead behind a reward's gate
    yield from _tried("action", _actions(env))
    yield from _tried("action", _pose(env))
    yield from _tried("observation", _observations(env))
    yield from _tried("goal", _region(env, seed))
    yield from _tried("observation", _unread(env))
    yield from _tried("leash", _leash(env))


def _tried(part: str, notes: Iterator[Note]) -> Iterator[Note]:
    """`notes`; in place of an exception one that says so."""
    try:
        yield from notes
    except Exception as error:  # noqa: BLE001 - of the task's own code; the laws that it keeps still count
        text = str(error) if isinstance(error, Error) else f"{type(error).__name__}: {error}"
        yield part, f"not looked at to the end: {text}"


def _ranges(env: Env) -> Iterator[Note]:
    """A note on the controls whose range Ctrl() takes from elsewhere in the model than from ctrlrange."""
    known, maps = controls(env.sim.model), groups(env.task.action, env.sim.model)
    takers = {i for one, of in maps if one == Ctrl() or isinstance(one, Delta) for i in of}
    borrowed = {i: bound for i, bound in Ctrl().borrowed(env.sim).items() if i in takers}
    words = [f"{known[i].name!r} {r.low:.4g} to {r.high:.4g} ({r.source})" for i, r in borrowed.items()]
    if words:
        more = f" and {len(words) - 3} more" if len(words) > 3 else ""
        text = f"without a ctrlrange, so Ctrl() takes what bounds it: {', '.join(words[:3])}{more}"
        keys = range_keys(env.sim.model, borrowed)
        yield "range", f"{text}; to set it, {keys} in {_model(env.task)} or Ctrl(low, high)"


def _unread(env: Env) -> Iterator[Note]:
    """Notes on a command that no observation has, and on an error of encoders that only the targets have."""
    copy = StandIn(env.sim, env.sim.device, torch.clone)
    copy.memory = noted = NotedMemory(copy.memory)
    call(env.task, "observe", copy)
    for name in env.task.commands:
        if name not in noted.read:
            what = f"no observation depends on {name!r}, so a policy cannot follow it: sim.memory[{name!r}]"
            yield "command", f"{what} in {_method(env.task, 'observe')}"
    if OFFSET in env.sim.memory and OFFSET not in noted.read:
        what = f"only targets are off by {OFFSET}: the encoder reads it too, so observe the joints less"
        yield "joint offset", f"{what} sim.memory[{OFFSET!r}] in {_method(env.task, 'observe')}"


def _leash(env: Env) -> Iterator[Note]:
    """A note on a Delta whose leash is as short as the noise of the joint that it is tied to."""
    sensors, leash = env.sensors, env.map.leash
    noise = sensors.noise_size[env.map.joints]
    for i in torch.nonzero(env.map.seen & (leash < TIGHT * noise)).flatten().tolist()[:1]:
        name, text = controls(env.sim.model)[i].name, f"{float(leash[i]):g} is near its sensor's noise"
        yield "leash", f"{name!r}: {text}, {float(noise[i]):g}, which then moves the target: a longer leash"


def _starts(env: Env, seed: int) -> Iterator[Note]:
    """Notes on the states after a reset, and on the first control step from there."""
    beyond: list[Fault | None] = []
    inside: list[Fault | None] = []
    acts: list[Fault | None] = []
    ended = 0
    for k in range(RESETS):
        env.reset()
        beyond += beyond_ranges(env.sim)
        inside += penetrations(env.sim)
        acts += beyond_act(env.sim)
        for step in random_steps(env, 1, seed + k):
            ended += int(step.terminated.sum())
    of, reset = NUM_ENVS * RESETS, _method(env.task, "reset")
    if text := _worst(beyond):
        yield "joint range", f"{text}: clamp qpos to sim.nominal('jnt_range') in {reset}"
    if text := _worst(acts):
        yield "act", f"{text}: beyond actrange, where it is clipped at once; change act in {reset}"
    if text := _worst(inside):
        yield "penetration", f"{text}: contact pushes them apart at once; start higher or apart in {reset}"
    if ended > ENDED * of:
        terminated = _method(env.task, "terminated")
        text = f"{ended / of:.0%} of {of} episodes terminate in their first control step"
        yield "first step", f"{text}: start elsewhere in {reset}, or loosen {terminated}"


def _worst(faults: list[Fault | None]) -> str:
    """Share of the starts with a fault, and the largest; "" without any."""
    found = [fault for fault in faults if fault]
    return f"{len(found) / len(faults):.0%} of {len(faults)} starts, up to {max(found)[1]}" if found else ""


def _rollout(env: Env, seed: int) -> Iterator[Note]:
    """Notes on what STEPS random control steps show, from ages spread over the episode."""
    iterations, force = env.sim.field("solver_niter"), env.sim.field("actuator_force")
    env.reset(stagger=True)
    used, forces, terms = [], [], []
    for step in random_steps(env, STEPS, seed):
        on = ~step.done  # a restart overwrites what the physics left
        used.append(iterations[on].amax(-1))
        forces.append(force[on])
        terms.append(step.terms)
    yield from _solver(env, torch.cat(used))
    yield from _torque(env, torch.cat(forces))
    yield from _rewards(env, torch.cat(terms))


def _solver(env: Env, used: Tensor) -> Iterator[Note]:
    """used: iterations of the last timestep of each control step."""
    cap = int(env.sim.model.opt.iterations)
    share = float((used >= max(cap, 1)).float().mean())
    if share > CAPPED:
        text = f"{share:.0%} of the control steps end at the cap of {cap} iterations, perhaps unconverged"
        yield "solver", f'{text}: <option iterations="{3 * cap}"/> in {_model(env.task)}'


def _torque(env: Env, forces: Tensor) -> Iterator[Note]:
    """forces (n, outputs) of the actuators, in their own units."""
    model, found = env.sim.model, list[tuple[float, str]]()
    for control, fact in zip(controls(model), actuators(env.sim), strict=True):
        low, high = fact["force_range"] or (0.0, 0.0)
        force = forces[:, int(model.actuator_outadr[control.actuator])]
        joint = gear_of(model, control.actuator) * force * (1 + 1e-6)  # rounding
        limit = ((joint >= high) & (high > 0)) | ((joint <= low) & (low < 0))
        found.append((float(limit.float().mean()), f"{fact['name']!r} (range {low:g} to {high:g})"))
    over = sorted((one for one in found if one[0] > AT_LIMIT), reverse=True)
    if over:
        names = ", ".join(f"{name} {share:.0%}" for share, name in over[:3])
        more = f" and {len(over) - 3} more" if len(over) > 3 else ""
        text = f"share of the time at the limit under random actions: {names}{more}"
        yield "torque", f"{text}; a smaller scale in {type(env.task).__name__}.action, or a smaller kp"


def _rewards(env: Env, terms: Tensor) -> Iterator[Note]:
    """terms (n, R), weighted."""
    low, high = terms.amin(0).tolist(), terms.amax(0).tolist()
    for name, least, most in zip(env.names.rewards, low, high, strict=True):
        if least == most and env.task.weights[name]:
            text = f"{name!r} is {least + 0.0:g} in all {len(terms)} random control steps and leads nowhere"
            yield "reward", f"{text}: widen its scale in {_method(env.task, 'rewards')}"


def _actions(env: Env) -> Iterator[Note]:
    """Notes on actions that do nothing, or that the clip to ctrlrange makes the same."""
    model = env.sim.model
    if dead := [repr(c.name) for c in controls(model) if is_disabled(model, c.actuator)]:
        text = f"actuatorgroupdisable switches off {', '.join(dead)}, so these actions do nothing"
        yield "action", f"{text}: take the group out of it in {_model(env.task)}"
    own = env.map
    bounds = zip(*(x.tolist() for x in (own.center, own.half, own.low, own.high)), strict=True)
    found: list[tuple[float, str]] = []
    for fact, kind, (center, half, low, high) in zip(actuators(env.sim), env.map.kinds, bounds, strict=True):
        if kind in ("delta", "hold"):
            continue
        first, last = (min(max((end - center) / max(half, 1e-12), -1.0), 1.0) for end in (low, high))
        lost = 1 - (last - first) / 2
        if lost > CLIPPED:
            same = [f"{a:.2g} to {b:.2g}" for a, b in ((-1.0, first), (last, 1.0)) if b > a]
            beyond = f": its pose {center:.4g} is beyond, so action 0 is not it"
            pose = "" if low <= center <= high else beyond
            words = f"{fact['name']!r} (ctrlrange {low:g} to {high:g}){pose}, actions {' and '.join(same)}"
            found.append((lost, f"{words} all do the same"))
    if found:
        more = f"; {len(found) - 1} more actuators" if len(found) > 1 else ""
        remedy = f"{type(env.task).__name__}.action, or ctrlrange or the keyframe in {_model(env.task)}"
        yield "action", f"clipped at {max(found)[1]}{more}: change {remedy}"


def _pose(env: Env) -> Iterator[Note]:
    """Notes on a keyframe without a ctrl, or with one that drives a joint beyond its range."""
    facts, targets = actuators(env.sim), env.map.center.clamp(env.map.low, env.map.high).tolist()
    for one, of in groups(env.task.action, env.sim.model):
        name = getattr(one, "keyframe", None)
        if name is not None and _without_ctrl(env, name):
            text = f"the keyframe {name!r} has a qpos but no ctrl, so action 0 drives the joints to 0"
            yield "action", f'{text}: put ctrl="..." into it in {_model(env.task)}'
        for fact, target in ((facts[i], targets[i]) for i in of if name is not None):
            first, last = fact["joint_range"] or (target, target)
            follows = "kp" in fact and fact["unit"] in ("m", "rad")  # without a gear
            if follows and max(first - target, target - last) > BEYOND * (last - first):
                span = f"{first:.4g} to {last:.4g} {fact['unit']}"
                text = f"action 0 drives {fact['name']!r} to {target:.4g}, beyond its joint's range {span}"
                text += f", so it presses on the stop: change the keyframe in {_model(env.task)}"
                yield "action", text


def _without_ctrl(env: Env, name: str | int) -> bool:
    """Whether a keyframe's ctrl is 0 throughout, but not the position of a joint with a servo."""
    key, model = env.sim.keyframe(name), env.sim.model
    servos = [model.joint(fact["joint"]) for fact in actuators(env.sim) if "kp" in fact and fact["joint"]]
    moved = any(abs(float(key.qpos[joint.qposadr[0]])) > AWAY for joint in servos)
    return moved and not bool(key.ctrl.any())


def _observations(env: Env) -> Iterator[Note]:
    """Notes on terms that follow from an Unmeasured quantity, have no `Sense.source`, and are not hidden."""
    sensing = env.task.sensing
    open_to = [name for name in env.names.obs if sensing.get(name, Sense()).source is None]
    seen = StandIn(env.sim, env.sim.device, torch.clone)
    exact = call(env.task, "observe", seen)
    found: dict[str, list[Unmeasured]] = {name: [] for name in open_to}
    for quantity in find_unmeasured(env.sim.model):
        try:
            shifted = [call(env.task, "observe", _shifted(env, seen, quantity, by)) for by in SHIFTS]
        except TaskError as error:
            text = f"{error}, with {quantity.name} shifted by {SHIFTS[0]:g} or {SHIFTS[1]:g}"
            yield "observation", f"{text}: clamp what it looks up, for robots fall and fly"
            continue
        for name in open_to:
            close = (torch.isclose(terms[name], exact[name], SAME, SAME, equal_nan=True) for terms in shifted)
            if not all(bool(same.all()) for same in close):
                found[name].append(quantity)
    for name, quantities in found.items():
        if quantities:
            needed = ", ".join(quantity.name for quantity in quantities)
            remedy = f'name what measures it, Sense(source="{quantities[0].example}"), or Sense(hidden=True)'
            text = f"{name!r} needs {needed}, which no sensor on a robot reads"
            yield "observation", f"{text}: {remedy} in {type(env.task).__name__}.sensing[{name!r}]"


def _region(env: Env, seed: int) -> Iterator[Note]:
    """A note on a goal's region of which the robot cannot reach enough, where what it moves is known."""
    if (goal := env.task.goal) is None or env.task.commands[goal.command].frame not in (None, "world"):
        return
    points = list[Tensor]()
    while sum(map(len, points)) < POINTS:
        env.reset()
        points.append(env.sim.memory[goal.command].clone())
    points = torch.cat(points)[:POINTS].cpu().numpy()
    rng = np.random.default_rng(seed)
    if (found := apart(env.sim, goal_pair(env.task, env.sim)[0], points, rng)) is None:
        return
    name, far = found
    if (near := int((far <= NEAR).sum())) < REACHED * POINTS:
        text = f"{name!r} comes within {NEAR:g} m of {near} of {POINTS} points of {goal.command!r}"
        worst = ", ".join(f"{x:.3g}" for x in points[far.argmax()])
        text = f"{text}; it stays {far.max():.2g} m away from ({worst}), without regard to contacts"
        yield "goal", f"{text}: a smaller region in {type(env.task).__name__}.commands"


def _shifted(env: Env, seen: StandIn, quantity: Unmeasured, by: float) -> StandIn:
    """A copy of the simulation in which the parts of the quantity that `seen` has read are shifted."""
    copy = StandIn(env.sim, env.sim.device, torch.clone)
    for field, index in quantity.parts.items():
        if field in seen.copies:
            copy.field(field)[(slice(None), *index)] += by
    return copy


def _method(task: Task, name: str) -> str:
    """`reset (hop.py, line 12)`; of a task without it, `reset (the task has none)`."""
    method = getattr(type(task), name)
    if method is getattr(Task, name):
        return f"{name} (the task has none)"
    code = getattr(method, "__code__", None)
    return f"{name} ({Path(code.co_filename).name}, line {code.co_firstlineno})" if code else name


def _model(task: Task) -> str:
    """The model's file name, or "the model"."""
    return Path(task.model).name if isinstance(task.model, Path | str) else "the model"
