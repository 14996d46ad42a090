"""Laws of the task contract that need a rollout to check; `robokit check my_task.py` runs them.

Env checks shapes, names and finite numbers before anything runs (task/checks/rules.py). Here a short random
rollout is checked as well, and every function of the task is called on stand-ins: copies of a simulation's
tensors that reveal writes, mixing of simulations, and reads of values on the CPU.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

from robokit.env.checks.stand_in import NotedMemory, StandIn
from robokit.env.checks.start import check_start
from robokit.env.env import Env
from robokit.env.levels import LEVEL
from robokit.env.step import Step
from robokit.errors import Error, TaskError
from robokit.sim.base import Sim
from robokit.sim.facts.controls import controls
from robokit.task.checks.guarded import call
from robokit.task.counts import goal_pair
from robokit.task.sense import Sense
from robokit.task.states import libraries
from robokit.task.task import Task, Terms

DRAWS = ("reset", "randomize", "disturb")  # take a generator
REDRAWS = 8  # other seeds: all simulations may draw the same coin once, but not for every seed
READS = ("observe", "privileged", "metrics", "terminated")
JUDGES = ("rewards", "costs", "remember")  # take the action
COST_ENVS, COST_STEPS = 16, 50  # simulations and control steps of the check of costs before a training
WARM_UP = 5  # control steps before each function is checked alone


@dataclass(frozen=True)
class Finding:
    """The result for one law: whether the task keeps it; `detail` is what breaks it first, else a summary.

    note: a doubt instead, from `robokit.env.checks.notes`; then `ok` is True.
    """

    name: str
    ok: bool
    detail: str
    note: bool = False


def check_task(task: Task, num_envs: int = 4, steps: int = 100, seed: int = 0) -> list[Finding]:
    """A Finding for each law; rollouts take `steps` random control steps, all together about a second.

    Laws: contract, pure, independent, any device, rollout, deterministic; training, for a level or reset
    states; if no Env can be made, only contract. "never moved: ..." in the detail of "rollout" is a warning
    (`ok` is True): an observation may be constant under random actions, but more often it reads the wrong
    field. A broken law raises nothing; num_envs < 2 raises TaskError.
    """
    if num_envs < 2:
        raise TaskError(f"check needs num_envs >= 2 to tell simulations apart, got {num_envs}")
    try:
        env = Env(task, num_envs, seed=seed, threads=1)
    except Error as error:
        return [Finding("contract", False, str(error))]
    widths = f"{env.obs_dim} observations, {env.act_dim} actions, {len(env.names.rewards)} reward terms"
    widths += f", {len(task.limits)} limits" if task.limits else ""
    kinds, rows = dict.fromkeys(env.map.kinds), [*zip(controls(env.sim.model), env.map.kinds, strict=True)]
    for kind in kinds if len(kinds) > 1 else ():
        widths += f"; {kind}: " + ", ".join(control.name for control, own in rows if own == kind)
    widths += "".join(f"; {kind}: {', '.join(names)}" for kind, names in _sensed(task).items() if names)
    laws: dict[str, Callable[[], str]] = {
        "pure": lambda: _pure(env, seed),
        "independent": lambda: _independent(env, seed),
        "any device": lambda: _any_device(env, seed),
        "rollout": lambda: _rollout(env, steps, seed),
        "deterministic": lambda: _deterministic(task, num_envs, steps, seed),
    }
    if task.level or libraries(task):
        laws["training"] = lambda: check_training(task, seed)
    return [Finding("contract", True, widths), *(_finding(name, law) for name, law in laws.items())]


def _sensed(task: Task) -> dict[str, list[str]]:
    """{"hidden": names of hidden terms, "sensed": ["name (noise, bias)"] of others with sensor errors}."""
    hidden = [name for name, sense in task.sensing.items() if sense.hidden]
    plain = Sense()
    figures = ("noise", "bias", "delay", "rate", "offset", "rotation", "dropout", "loss")
    sensed = list[str]()
    for name, sense in task.sensing.items():
        found = [f for f in figures if getattr(sense, f) != getattr(plain, f)]
        sensed += [f"{name} ({', '.join(found)})"] if found and not sense.hidden else []
    return {"hidden": hidden, "sensed": sensed}


def _finding(name: str, law: Callable[[], str]) -> Finding:
    """Run a law, which returns a summary or raises an Error whose text becomes the detail."""
    try:
        return Finding(name, True, law())
    except Error as error:
        return Finding(name, False, str(error))


# -- a random rollout ----------------------------------------------------------------------------


def _rollout(env: Env, steps: int, seed: int) -> str:
    """TaskError if a simulation breaks, a value is not finite or a cost out of range; else a summary.

    The summary counts ended episodes and lists the observations that never moved.
    """
    check_start(env.task, seed)
    low, high, ends = env.reset(), env.obs, 0
    for t, step in enumerate(random_steps(env, steps, seed)):
        _check_step(env, step, t)
        for obs in (step.obs, step.final_obs):
            low, high = torch.minimum(low, obs), torch.maximum(high, obs)
        ends += int(step.done.sum())
    still = (low.amin(0) == high.amax(0)).split(list(env.names.obs.values()))
    counts = {name: int(same.sum()) for name, same in zip(env.names.obs, still, strict=True) if same.any()}
    never = [f"{name} ({count} of {env.names.obs[name]})" for name, count in counts.items()]
    return f"{steps} steps, {ends} episodes ended" + (f"; never moved: {', '.join(never)}" if never else "")


def random_steps(env: Env, steps: int, seed: int) -> Iterator[Step]:
    """Step `env`, without a reset, with uniform actions; an exception of the task becomes a TaskError."""
    rng = torch.Generator(env.device).manual_seed(seed)
    for t in range(steps):
        action = torch.rand(env.num_envs, env.act_dim, generator=rng, device=env.device) * 2 - 1
        try:
            step = env.step(action)
        except Error:
            raise
        except Exception as error:
            raise TaskError(f"step {t} raised {type(error).__name__}: {error}") from error
        yield step


def _check_step(env: Env, step: Step, t: int) -> None:
    """Raise TaskError for a broken simulation, a value not finite (a metric may be NaN) or a wrong cost."""
    names = env.names
    columns = {
        "observe": (step.obs, _columns(names.obs)),
        "observe or privileged": (step.final_state, _columns(names.state)),
        "rewards": (step.terms, list(names.rewards)),
        "costs": (step.cost, list(names.costs)),
        "metrics": (torch.where(step.metrics.isnan(), 0.0, step.metrics), list(names.metrics)),
    }
    if step.bad.any():
        begins = "" if t else "; look also at what reset and randomize return"
        raise TaskError(f"at step {t} {env.broken.note(last=True)}{begins}")
    for function, (values, known) in columns.items():
        if not torch.isfinite(values).all():
            raise TaskError(f"{function} {known[_first(~values.isfinite())]!r} is not finite at step {t}")
    _check_cost(env, step.cost, t)
    ended = None if env.task.sensing else env.task.ended(env.split(step.final_obs))
    if ended is not None and (wrong := ended != step.terminated).any():
        rule = f"ended says {bool(ended[wrong][0])} where terminated says {not bool(ended[wrong][0])}"
        raise TaskError(f"{rule}, at step {t}; it must tell the same, or return None")


def check_costs(task: Task, seed: int = 0) -> None:
    """Raise TaskError for a cost that leaves [0, Limit.largest] in COST_STEPS random control steps."""
    env = Env(task, COST_ENVS, seed=seed, threads=1)
    for t, step in enumerate(random_steps(env, COST_STEPS, seed)):
        _check_cost(env, step.cost, t)


def check_training(task: Task, seed: int = 0) -> str:
    """Raise TaskError for reset states that do not fit, and a level that no function and no command reads."""
    env = Env(task, 2, seed=seed, threads=1, training=True)
    env.commands.sim = copy = StandIn(env.sim, env.sim.device, torch.clone)
    copy.memory = noted = NotedMemory(copy.memory)
    env.commands.draw(copy)
    for function in _functions(env, seed):
        _terms(env, copy, function, seed)
    if task.level and LEVEL not in noted.read:
        rule = "a level that nothing reads: use sim.memory['level'], as in reset, randomize or a command"
        raise TaskError(f"{type(task).__name__}.level is {rule}, or take it out")
    return f"{len(env.sim.libraries)} files of reset states, {task.level or 'no level'}"


def _check_cost(env: Env, cost: Tensor, t: int) -> None:
    """Raise TaskError unless each cost (N, K) lies in [0, Limit.largest]."""
    for (name, limit), column in zip(env.task.limits.items(), cost.unbind(-1), strict=True):
        low, high = column.min(), column.max()
        if not 0 <= low <= high <= limit.largest * (1 + 1e-6):
            wrong = high if low >= 0 else low
            rule = f"must lie from 0 to {limit.largest:g}, its Limit.largest"
            raise TaskError(f"costs {name!r} {rule}; got {float(wrong):g} at step {t}")


def _deterministic(task: Task, num_envs: int, steps: int, seed: int) -> str:
    """TaskError unless two new environments with one seed and the same actions agree bit for bit.

    Half-way a third one takes the second's place, from the first's state: a resumed training must agree too.
    """
    envs = [Env(task, num_envs, seed=seed, threads=1) for _ in range(2)]
    for name, a, b in zip(_columns(envs[0].names.obs), envs[0].obs.T, envs[1].obs.T, strict=True):
        if not torch.equal(a, b):
            raise TaskError(f"observe {name!r} differs between two resets of one seed")
    half = steps // 2
    _agree(envs, half, seed, "between two runs of one seed", 0)
    envs[1] = Env(task, num_envs, seed=seed, threads=1)
    envs[1].load_state_dict(envs[0].state_dict())
    _agree(envs, steps - half, seed + 1, "in a training resumed from its checkpoint", half)
    return f"{steps} steps the same twice"


def _agree(envs: list[Env], steps: int, seed: int, when: str, done: int) -> None:
    """Raise TaskError unless two environments agree bit for bit in `steps` random steps, after `done`."""
    runs = [random_steps(env, steps, seed) for env in envs]
    for t, (one, two) in enumerate(zip(*runs, strict=True), done):
        for f in fields(Step):
            if not _same(getattr(one, f.name), getattr(two, f.name)):
                raise TaskError(f"Step.{f.name} differs {when}, at step {t}")


# -- functions one by one ------------------------------------------------------------------------


def _pure(env: Env, seed: int) -> str:
    """TaskError if a function writes its inputs, or returns other values in a second call with one seed."""
    for function in _functions(env, seed):
        copy, action = StandIn(env.sim, env.sim.device, _shaken), _action(env, env.sim.device)
        first = {k: v.clone() for k, v in _terms(env, copy, function, seed, action).items()}
        if not _same(action, _action(env, env.sim.device)):
            raise TaskError(f"{function} writes the action it is given; return new values instead")
        for name, value in copy.copies.items():
            if not _same(value, _shaken(env.sim.field(name))):
                raise TaskError(f"{function} writes sim's {name!r}; return new values instead")
        again = _terms(env, copy, function, seed)
        for name, value in first.items():
            if name not in again or not _same(value, again[name]):
                raise TaskError(f"{function} {name!r} differs in a second call with the same state")
    return "nothing written, same results in a second call"


def _independent(env: Env, seed: int) -> str:
    """TaskError if NaNs in simulation 0 reach another, or if all simulations always share one draw."""
    for function in _functions(env, seed):
        well = StandIn(env.sim, env.sim.device, torch.clone)
        broken = StandIn(env.sim, env.sim.device, _broken)
        expected, got = _terms(env, well, function, seed), _terms(env, broken, function, seed)
        for name, value in expected.items():
            if not _same(value[1:], got[name][1:]):
                raise TaskError(f"{function} {name!r} mixes simulations: a NaN in one changes the others")
        seeds = range(seed + 1, seed + 1 + REDRAWS) if function in DRAWS else ()
        others = [_terms(env, well, function, other) for other in seeds]
        for name, value in expected.items():
            drawn = [terms[name] for terms in others]
            if any(not _same(x, value) for x in drawn) and all(_same(x, x[:1].expand_as(x)) for x in drawn):
                raise TaskError(f"{function} {name!r} draws one value for all simulations; draw N")
    return "a broken simulation reaches no other"


def _any_device(env: Env, seed: int) -> str:
    """TaskError unless every function runs on meta tensors, which have shapes but no values."""
    meta = StandIn(env.sim, torch.device("meta"), lambda x: torch.empty_like(x, device="meta"))
    rule = "no .item(), float() or `if` on a tensor, no mask as an index; make tensors on sim.device"
    for function in _functions(env, seed):
        try:
            values = _terms(env, meta, function, seed)
        except TaskError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise TaskError(f"{function} would not run on a GPU ({reason}): {rule}") from error
        for name, value in values.items():
            if value.device != meta.device:
                raise TaskError(f"{function} {name!r} is on {value.device}, not on sim.device: {rule}")
    return "no function reads a tensor's value"


def _functions(env: Env, seed: int) -> tuple[str, ...]:
    """Reset `env`, take WARM_UP random steps, and return the names of all functions of a task."""
    env.reset()
    for _ in random_steps(env, WARM_UP, seed):
        pass
    return (*DRAWS, *READS, *JUDGES, *(["reached"] if env.task.goal else []))


def _action(env: Env, device: torch.device) -> Tensor:
    """An action (N, A) in [-1, 1] whose numbers all differ."""
    return torch.linspace(-1, 1, env.num_envs * env.act_dim, device=device).reshape(env.num_envs, env.act_dim)


def _terms(env: Env, sim: Sim, function: str, seed: int, action: Tensor | None = None) -> Terms:
    """The terms {name: tensor} that one function of the task returns; {"terminated": (N,)} for that one.

    seed: of the generator for DRAWS. action: for JUDGES; None: the one of `_action`.
    """
    argument: dict[str, Tensor | Generator] = {f: torch.Generator().manual_seed(seed) for f in DRAWS}
    argument |= dict.fromkeys(JUDGES, _action(env, sim.device) if action is None else action)
    own = (sim, argument[function]) if function in argument else (sim,)
    values = call(env.task, function, *(goal_pair(env.task, sim) if function == "reached" else own))
    return {function: values} if isinstance(values, Tensor) else values


def _shaken(value: Tensor) -> Tensor:
    """A copy; floats get normal noise, the same in every call.

    Without noise, a function that writes its result back would not change the copy.
    """
    if not value.is_floating_point():
        return value.clone()
    rng = torch.Generator(value.device).manual_seed(0)
    return value + torch.randn(value.shape, generator=rng, dtype=value.dtype, device=value.device)


def _broken(value: Tensor) -> Tensor:
    """A copy; floats of simulation 0 become NaN."""
    value = value.clone()
    if value.is_floating_point():
        value[0] = torch.nan
    return value


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape and are equal in every number, NaN equal to NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _first(wrong: Tensor) -> int:
    """Position in the last dimension of the first True."""
    return int(torch.nonzero(wrong)[0, -1])


def _columns(widths: Mapping[str, int]) -> list[str]:
    """The name of each column: `name` of a term of width 1, `name[i]` of a wider one."""
    return [name if width == 1 else f"{name}[{i}]" for name, width in widths.items() for i in range(width)]
