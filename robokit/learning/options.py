"""Options of all algorithms, and checks of options.

Each check raises OptionError with the option, the rule and the value. `--help` prints the comment beside or
above a field.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from types import UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, get_args, get_origin

from robokit.compute.processes import world
from robokit.errors import OptionError, did_you_mean
from robokit.learning.schedule import Scheduled, first
from robokit.limits.multipliers import Rule
from robokit.networks.belief import RECURRENT, Kind

C = TypeVar("C", bound=Any)  # a dataclass of options


@dataclass(frozen=True)
class Options:
    """Options of every algorithm; algorithms override some defaults."""

    usual_num_envs: ClassVar[int]  # number of simulations for num_envs None

    steps: int = 300_000  # environment steps, over all simulations; the last iteration is completed
    num_envs: int | None = None  # N, simulations stepped together; None: the algorithm's usual number
    gamma: float = 0.99  # discount per control step
    lr: Scheduled = 3e-4  # learning rate of Adam; START,END: linear from step 0 to `steps`
    hidden: tuple[int, ...] = (256, 256)  # units in each hidden layer of policy and critics
    activation: Literal["tanh", "elu", "relu", "silu"] = "relu"  # between layers
    normalize_obs: bool = False  # by running mean and standard deviation
    max_grad_norm: float | None = None  # clip gradients to this global norm; None: no clipping
    mirror: bool = False  # average the policy with its mirror image, given by the task's `mirror`
    belief: Kind = "memoryless"  # the policy's memory
    belief_size: int = 64  # units of a recurrent belief
    critic: Literal["state", "obs"] = "state"  # critics' input: exact and privileged values, or the policy's
    critic_belief: Kind = "memoryless"  # the critics' memory
    # update rule of the limits' Lagrange multipliers; fixed: constant; off: train without limits
    limit_rule: Rule = "pid"
    margin: float = 0.1  # safety margin: training aims at (1 - margin) of each limit
    gains: tuple[float, float, float] = (0.5, 0.02, 0.0)  # Kp, Ki, Kd of the rule pid
    dual_lr: float = 0.01  # step of the rule dual: lambda per unit of cost and iteration
    penalty: float = 0.0  # lambda of the rule fixed: reward per unit of cost
    # torch.compile: slow to start, fast to step; None: by the training's sizes, if a compiler is there
    compile: bool | None = None

    @property
    def simulations(self) -> int:
        """Number of simulations of a training, over all processes: num_envs, or usual_num_envs if None."""
        return self.usual_num_envs if self.num_envs is None else self.num_envs

    def on(self, num_envs: int) -> Self:
        """A copy with the option num_envs = argument `num_envs` * processes; argument: of each process's Env.

        Raises OptionError if the option is neither None nor that product.
        """
        number = num_envs * world()
        if self.num_envs not in (None, number):
            each = "" if world() == 1 else f" in {world()} processes"
            raise OptionError(f"num_envs is {self.num_envs}, but the Env has {number} simulations{each}")
        return replace(self, num_envs=number)


def check_options(
    config: Options,
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
    unit: Sequence[str] = (),
    **shared: int,
) -> None:
    """Raise OptionError for an invalid option, of all algorithms or of those named.

    positive, not_negative, unit: names of an algorithm's own options that must be > 0, >= 0 and in [0, 1].
    shared: name=number that must be a multiple of the number of processes.
    """
    check_choices(config)
    check_positive(config, "steps", "num_envs", "hidden", "max_grad_norm", "belief_size", "dual_lr")
    check_positive(config, *positive)
    if not first(config.lr) > 0:
        raise OptionError(f"lr must be > 0{' at step 0' * isinstance(config.lr, tuple)}, got {config.lr}")
    check_not_negative(config, "lr", "penalty", "gains", *not_negative)
    check_unit(config, "gamma", *unit)
    check_shared(num_envs=config.simulations, **shared)
    if not 0 <= config.margin < 1:
        raise OptionError(f"margin must be in [0, 1), got {config.margin}")
    if config.penalty and config.limit_rule != "fixed":
        rule = f"is the multiplier of limit_rule 'fixed'; limit_rule is {config.limit_rule!r}"
        raise OptionError(f"penalty ({config.penalty}) {rule}")


def least_weights(config: Options) -> int:
    """A lower bound on the weights of a policy with these options; no network is made."""
    unit = config.belief_size if config.belief in RECURRENT else 0
    return sum(a * b for a, b in pairwise(config.hidden)) + sum(config.hidden) + unit * unit


def check_choices(config: Any) -> None:
    """Raise OptionError if a field of type Literal has another value; other fields go unchecked."""
    for field in fields(config):
        name, known = field.name, get_args(field.type)
        if get_origin(field.type) is Literal and getattr(config, name) not in known:
            raise OptionError(f"{name} must be one of {[*known]}, got {getattr(config, name)!r}")


def with_options(config: C, given: Mapping[str, Any], who: str = "") -> C:
    """`config` with the given options. A list becomes a tuple, a NumPy number one of Python.

    who: whose options these are, for errors: "the ppo recipe of Hopper". Raises OptionError for an unknown
    name or a value of a wrong type.
    """
    known, taken = {f.name: f.type for f in fields(config)}, dict[str, Any]()
    for name, value in given.items():
        if name not in known:
            lack = f"{who} sets an unknown option" if who else "no option"
            raise OptionError(f"{lack} {name!r}{did_you_mean(name, known, f'there are {[*known]}')}")
        taken[name] = plain(value)
        if not fits(taken[name], known[name]):
            says = f"{who} sets {name} to {value!r}; it" if who else f"{name}, set to {value!r},"
            raise OptionError(f"{says} must be {named(known[name])}")
    return replace(config, **taken)


def plain(value: Any) -> Any:
    """A NumPy or torch number as one of Python, an array or a list as a tuple; others as they are."""
    if callable(tolist := getattr(value, "tolist", None)):
        value = tolist()
    return tuple(value) if isinstance(value, list) else value


def fits(value: Any, kind: Any) -> bool:
    """Whether a value has an option's annotated type: an int fits float, a bool only bool, a list never."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(fits(value, one) for one in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        kinds = args[:1] * len(value) if args[-1] is ... and isinstance(value, tuple) else args
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(fits, value, kinds))
    kinds = (int, float) if kind is float else (kind,)
    return isinstance(value, kinds) and isinstance(value, bool) == (kind is bool)


def named(kind: Any) -> str:
    """An option's annotated type, for an error: `one of ['min', 'mean']`, `of the type float | None`."""
    if get_origin(kind) is Literal:
        return f"one of {[*get_args(kind)]}"
    return f"of the type {kind if get_args(kind) else kind.__name__}"


def check_positive(config: Any, *names: str) -> None:
    """Raise OptionError unless each option, or each number of its tuple, is > 0 and finite, or None."""
    for name in names:
        for number in _numbers(config, name):
            if not 0 < number < math.inf:
                rule = "> 0" if number != math.inf else "finite"
                raise OptionError(f"{name} must be {rule}, got {getattr(config, name)}")


def check_not_negative(config: Any, *names: str) -> None:
    """Raise OptionError unless each option, or each number of its tuple, is >= 0 and finite, or None."""
    for name in names:
        if not all(0 <= number < math.inf for number in _numbers(config, name)):
            raise OptionError(f"{name} must be finite and at least 0, got {getattr(config, name)}")


def check_unit(config: Any, *names: str) -> None:
    """Raise OptionError unless each option is in [0, 1]; None is not allowed."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise OptionError(f"{name} must be in [0, 1], got {getattr(config, name)}")


def check_shared(**numbers: int) -> None:
    """Raise OptionError unless each number (name=number) is a multiple of the number of processes."""
    for name, value in numbers.items():
        if value % world():
            rule = f"must be a multiple of the {world()} processes that share it"
            raise OptionError(f"{name} {rule}, got {value}")


def recurrent(config: Options) -> bool:
    """Whether the policy's or the critics' belief, or both, is "gru", "lstm" or "mingru"."""
    return bool({config.belief, config.critic_belief} & set(RECURRENT))


def check_chunk(config: Options, name: str, number: int, words: str) -> None:
    """With a recurrent belief: OptionError unless the option `name` divides `number`, called `words`."""
    if recurrent(config) and number % getattr(config, name):
        what = "the control steps that a recurrent belief is trained through"
        raise OptionError(f"{name} ({getattr(config, name)}), {what}, must divide {words}")


def each_of(name: str, number: int) -> str:
    """An option's share per process, for an error: `batch (256)`, `batch / processes (256 / 2)`."""
    return f"{name} ({number})" if world() == 1 else f"{name} / processes ({number} / {world()})"


def _numbers(config: Any, name: str) -> tuple[Any, ...]:
    got = getattr(config, name)
    return () if got is None else got if isinstance(got, tuple) else (got,)
