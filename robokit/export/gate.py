"""Checks of an exported graph before its file exists: portable, equal to the policy, safe from NaN.

The graph is compared with the policy itself, run with carried terms, a belief and Env's action map, so that
the wiring is tested too. Each step begins from the policy's carried state, and gives ctrl and the next
carried state: equal steps make an equal rollout, up to rounding that a policy's own feedback may amplify.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx.external_data_helper import uses_external_data
from torch import Tensor

from robokit.controller import OUTPUTS, ContractError, Controller, ObservationError, open_session
from robokit.env.env import Env
from robokit.errors import ExportError, ParityError
from robokit.learning.episodes import beyond, observed
from robokit.learning.protocols import Actor
from robokit.sim.facts.readings import actuators, readings
from robokit.task.action_map import ActionMap
from robokit.task.columns import CARRIED, supplied

OPSET, IR = 18, 8  # version of the operators, and the oldest of the file's format that holds them
ORT = "1.15"  # the oldest onnxruntime in which exported files were run, see docs/deploy.md
BATCHES = (1, 64)
STEPS = 1000  # of every replay
RESET_EVERY = 97  # steps between added resets: at least 10 in every replay
# of ctrl, relative to the span of the actuator's targets, or one float32 ulp of ctrl; of a carried number x,
# relative to max(1, |x|)
TOLERANCE = 1e-5
FINEST = 1e-2  # largest float32 ulp of ctrl, relative to the span: coarser targets are no control
Kept = dict[str, Tensor]  # the carried terms, (n, d) each


@dataclass(frozen=True)
class Recording:
    """Observations of n simulations over T control periods of the policy; float32 on the CPU."""

    obs: Tensor  # (T, n, O)
    is_first: Tensor  # (T, n) bool: obs[t] begins an episode
    readings: Tensor  # (T, n, C): every sensor, qpos and qvel


@dataclass(frozen=True)
class Parity:
    """Largest differences between onnxruntime and torch over one replay, each step from an equal state."""

    batch: int
    steps: int
    resets: int  # fewest in any row of the batch
    ctrl_error: float  # of ctrl, relative to the span of the actuator's targets
    carry_error: float  # of a carried number x, relative to max(1, |x|)
    loop_error: float  # as ctrl_error, but each with a carried state of its own: with accumulated rounding


@torch.no_grad()
def record(policy: Actor, env: Env, steps: int = STEPS) -> Recording:
    """Record what the deterministic policy observes in `steps` control periods, in at most 64 simulations.

    All simulations of `env` are reset and stepped; the observations have no sensor errors. Raises ExportError
    if the observed "action" is not the previous one (zero after a restart), "clock" not the task's clock, or
    an observation not finite.
    """
    env.reset()
    n, env_obs = min(env.num_envs, max(BATCHES)), _exact(env)
    kept, belief = _zeros(policy, env, env.num_envs)
    is_first, rows = torch.ones(env.num_envs, dtype=torch.bool), []
    action_map = _action_map(env)
    for _ in range(steps):
        read = env.obs.cpu()  # with sensor errors: what Env starts a Delta's targets from
        kept = _now(kept, is_first, read, env, action_map)
        obs = _with(kept, env_obs, env)
        _check_carried(obs - env_obs, env)
        rows.append((obs[:n], is_first[:n], readings(env.sim)[:n].cpu()))
        action, belief = policy(obs, belief, is_first)
        kept = _next(kept, action, action_map.target(action, kept.get("target"), read), env)
        is_first, env_obs = env.step(action.to(env.device)).done.cpu(), _exact(env)
    recording = Recording(*(torch.stack(column) for column in zip(*rows, strict=True)))
    if wrong := beyond(observed(env), recording.obs.flatten(0, 1)):
        raise ExportError(wrong)
    return recording


def gate(model: onnx.ModelProto, policy: Actor, env: Env, recording: Recording) -> tuple[Parity, ...]:
    """Check that a graph is portable, equals the policy and clears NaN at a reset; a Parity per batch size.

    ctrl may differ by TOLERANCE of the span, or by one float32 ulp of the largest target if that is more; a
    carried number by TOLERANCE. Raises ExportError naming the failed check, its figure and the actuator.
    """
    check_graph(model)
    spans = check_spans(env)
    try:
        session = open_session(model.SerializeToString(), "the graph")
    except ContractError as error:
        raise ExportError(str(error)) from error
    check_reset(session)
    parity = []
    for batch in BATCHES:
        seen, is_first = _spread(recording, batch)
        ctrl, carry, loop = differences(session, policy, env, seen, is_first)
        over = (ctrl / spans.allowed).nan_to_num(torch.inf, torch.inf)
        if bool((over > 1).any()):
            message = _refusal(batch, ctrl, int(over.argmax()), spans, env)
            raise ParityError(message, float(over.max()))
        if not carry <= TOLERANCE:
            message = f"the ONNX graph differs from the policy at batch {batch} by {carry:.3g} in its carried"
            raise ParityError(f"{message} state, at most {TOLERANCE:g} of max(1, |x|)", carry / TOLERANCE)
        own = float((loop / spans.span).max())
        errors = float((ctrl / spans.span).max()), carry, own
        if not own < torch.inf:
            raise ParityError(f"the ONNX graph's replay at batch {batch} is not finite", own)
        parity.append(Parity(batch, len(seen), int(is_first.sum(0).min()), *errors))
    return tuple(parity)


class Spans(NamedTuple):
    """Of each control's targets, in units of ctrl, (nu,) float64 each."""

    span: Tensor  # ActionMap.span
    allowed: Tensor  # largest difference between graph and policy


def check_spans(env: Env) -> Spans:
    """Spans of a task's action map. Raises ExportError where float32 cannot resolve an actuator's targets."""
    action_map = _action_map(env)
    span, ends = action_map.span, (action_map.lowest, action_map.highest)
    largest = torch.maximum(*(end.abs() for end in ends))
    ulp = torch.from_numpy(np.spacing(largest.numpy().astype(np.float32)).astype(np.float64))
    if coarse := torch.nonzero(ulp > FINEST * span).flatten().tolist():
        i = coarse[0]
        at, wide, step = (f"{float(x[i]):.3g}" for x in ((ends[0] + ends[1]) / 2, span, ulp))
        raise ExportError(
            f"{_actuator(env, i)}: its targets lie around {at} and span {wide}, which float32 divides into "
            f"steps of {step}, more than {FINEST:g} of the span: give it a larger scale"
        )
    return Spans(span, torch.maximum(TOLERANCE * span, ulp))


def _refusal(batch: int, ctrl: Tensor, i: int, spans: Spans, env: Env) -> str:
    """The message for actuator i, with the largest difference of its ctrl."""
    difference, allowed = (f"{float(x[i] / spans.span[i]):.3g}" for x in (ctrl, spans.allowed))
    return (
        f"the ONNX graph differs from the policy at batch {batch} by {difference} of the actuator range, "
        f"at most {allowed}, in the {_actuator(env, i)}, whose targets span {float(spans.span[i]):.3g} at a "
        f"scale of {float(env.map.half[i]):.3g}. Where large numbers are rounded: --normalize-obs, "
        f"observations of about 1, or a larger scale"
    )


def _actuator(env: Env, i: int) -> str:
    return f"actuator {actuators(env.sim)[i]['name']!r}"


def check_graph(model: onnx.ModelProto) -> None:
    """Raise ExportError unless the graph is valid ONNX: standard ops, symbolic batch, no external data.

    Its versions are at most IR and OPSET, for older runtimes.
    """
    graph = model.graph
    foreign = {f"{n.domain}::{n.op_type}" for n in graph.node if n.domain not in ("", "ai.onnx")}
    foreign |= {f"{f.domain}::{f.name}" for f in model.functions}
    if foreign:
        raise ExportError(f"the graph uses ops that are not standard ONNX: {sorted(foreign)}")
    ends = {v.name: v.type.tensor_type.shape.dim for v in (*graph.input, *graph.output)}
    if fixed := [name for name, dims in ends.items() if not dims[0].HasField("dim_param")]:
        raise ExportError(f"the graph has a fixed batch size in {fixed}")
    if outside := [t.name for t in graph.initializer if uses_external_data(t)]:
        raise ExportError(f"the graph keeps {outside} outside of its file")
    if model.ir_version > IR:
        raise ExportError(f"the graph has IR version {model.ir_version}, at most {IR} for older runtimes")
    opsets = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if max(opsets) > OPSET:
        rule = f"at most {OPSET} for older runtimes"
        raise ExportError(f"the graph has operators of opset {max(opsets)}, {rule}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph is not valid ONNX: {error}") from error


def check_reset(session: Any) -> None:
    """Raise ExportError unless a step with `reset` ignores `carry`, bit for bit, even if it holds NaN."""
    ends = {i.name: i.shape for i in session.get_inputs()}
    feed: dict[str, Any] = {n: np.ones((2, *shape[1:]), np.float32) for n, shape in ends.items()}
    feed["reset"] = np.array([True, True])
    results = []
    for held in (0.0, np.nan):
        feed["carry"] = np.full_like(feed["carry"], [[held], [1.0]])
        results.append(np.concatenate([np.asarray(o) for o in session.run(OUTPUTS, feed)], -1))
    clean, probed = results
    if not np.isfinite(clean).all():
        raise ExportError("the graph's output is not finite for finite observations")
    if not np.array_equal(clean, probed):
        raise ExportError("a reset does not clear a NaN from the carried state (NaN probe)")


def check_refusal(path: Path) -> None:
    """Raise ExportError if the file's Controller accepts NaN in an input; its own error if it refuses 0."""
    controller = Controller(path)
    good = {name: np.zeros(size) for name, size in controller.inputs.items()}
    controller.step(good)
    for name, size in controller.inputs.items():
        try:
            controller.step({**good, name: np.full(size, np.nan)})
        except ObservationError:
            continue
        raise ExportError(f"a NaN in the observation {name!r} was not refused (NaN probe)")


@torch.no_grad()
def differences(
    session: Any, policy: Actor, env: Env, seen: Tensor, is_first: Tensor
) -> tuple[Tensor, float, Tensor]:
    """Largest differences between graph and policy on equal observations and resets.

    seen (T, batch, O), is_first (T, batch). Of ctrl (nu,) and of the next carried state, relative to
    max(1, |x|), each step from the policy's carried state; of ctrl (nu,) with carried states of their own.
    The policy's ctrl is computed with Env's action map.
    """
    action_map = _action_map(env)
    kept, belief = _zeros(policy, env, seen.shape[1])
    state = loop = _carry(kept, belief)
    errors, worst = torch.zeros(2, len(action_map.kinds), dtype=torch.float64), torch.zeros(())
    for obs, reset in zip(seen, is_first, strict=True):
        terms = env.split(obs)
        feed = {name: terms[name].contiguous().numpy() for name in supplied(env.columns)}
        feed["reset"] = reset.numpy()
        equal, after = session.run(OUTPUTS, {**feed, "carry": state})
        own, loop = session.run(OUTPUTS, {**feed, "carry": loop})
        kept = _now(kept, reset, obs, env, action_map)
        action, belief = policy(_with(kept, obs, env), belief, reset)
        expected = action_map.target(action.double(), kept.get("target"), obs)
        kept = _next(kept, action, expected, env)
        both = torch.from_numpy(np.stack((np.asarray(equal), np.asarray(own))))
        errors = torch.maximum(errors, (both - expected).abs().amax(1))  # NaN stays
        state = _carry(kept, belief)
        off = np.abs(np.asarray(after) - state) / np.maximum(np.abs(state), 1.0)
        worst = torch.maximum(worst, torch.from_numpy(off).max())
    return errors[0], float(worst), errors[1]


def _carry(kept: Kept, belief: Tensor) -> Any:
    """The carried terms and the belief as the graph's `carry` (batch, C), a float32 numpy array."""
    return torch.cat((*kept.values(), belief), -1).numpy()


def _action_map(env: Env) -> ActionMap:
    return env.map.to("cpu", torch.float64)


def _spread(recording: Recording, batch: int) -> tuple[Tensor, Tensor]:
    """obs (T, batch, O), is_first (T, batch) with added resets, staggered; repeats are shifted in time."""
    steps, column = torch.arange(len(recording.obs))[:, None], torch.arange(batch)
    n = recording.obs.shape[1]
    time = (steps + column // n * 37) % len(steps)
    cut = (steps + 13 * column) % RESET_EVERY == 0
    is_first = recording.is_first[time, column % n] | cut | (steps == 0)
    return recording.obs[time, column % n], is_first


def _exact(env: Env) -> Tensor:
    """Present obs (N, O) on the CPU, without sensor errors, so that columns equal the model's readings."""
    return env.sensors.visible(env.state).cpu()


def _check_carried(difference: Tensor, env: Env) -> None:
    """Raise ExportError if `difference` (N, O), of obs by the file's rule and Env's, is above a tolerance."""
    values = env.split(difference)
    for term in env.carried:
        error = float(values[term.name].abs().max()) if term.name in values else 0.0
        if error > term.tolerance:
            rule = f"the observation {term.name!r} is not {CARRIED[term.name]}"
            raise ExportError(f"{rule}, or not so after a restart: off by {error:.3g}")


def _with(kept: Kept, obs: Tensor, env: Env) -> Tensor:
    """A copy of obs (n, O) with its carried columns replaced by `kept`."""
    return torch.cat([kept.get(name, value) for name, value in env.split(obs).items()], -1)


def _zeros(policy: Actor, env: Env, batch: int) -> tuple[Kept, Tensor]:
    """The carried terms {name: (batch, size)} and the belief (batch, B), all zeros."""
    kept = {term.name: torch.zeros(batch, term.size) for term in env.carried}
    return kept, torch.zeros(batch, policy.belief_size)


def _now(kept: Kept, is_first: Tensor, obs: Tensor, env: Env, action_map: ActionMap) -> Kept:
    """The carried terms as observed in this step; where is_first (n,) bool, `start` replaces `kept`."""
    here = action_map.start(obs).float()
    commands = [value for name, value in env.split(obs).items() if name in env.task.commands]
    begun = {t.name: torch.where(is_first[:, None], t.start(here), kept[t.name]) for t in env.carried}
    return {term.name: term.now(begun[term.name], commands) for term in env.carried}


def _next(kept: Kept, action: Tensor, ctrl: Tensor, env: Env) -> Kept:
    return {term.name: term.next(kept[term.name], action, ctrl.float()) for term in env.carried}
