"""Rules for an algorithm's options; each raises OptionError that names the option, the rule and the value."""

import math
from dataclasses import fields
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from robokit.compute.processes import world
from robokit.errors import OptionError


def check_choices(config: Any) -> None:
    """A field that is a Literal must be one of its words."""
    for field in fields(config):
        name, known = field.name, get_args(field.type)
        if get_origin(field.type) is Literal and getattr(config, name) not in known:
            raise OptionError(f"{name} must be one of {[*known]}, got {getattr(config, name)!r}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an option's annotated type; a whole number is a float as well, a bool neither."""
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
    """Each must be > 0 and finite, as must all numbers of a tuple; None is left open."""
    for name in names:
        for number in _numbers(config, name):
            if not 0 < number < math.inf:
                rule = "> 0" if number != math.inf else "finite"
                raise OptionError(f"{name} must be {rule}, got {getattr(config, name)}")


def check_not_negative(config: Any, *names: str) -> None:
    """Each must be >= 0 and finite, as must all numbers of a tuple; None is left open."""
    for name in names:
        if not all(0 <= number < math.inf for number in _numbers(config, name)):
            raise OptionError(f"{name} must be finite and at least 0, got {getattr(config, name)}")


def check_unit(config: Any, *names: str) -> None:
    """Each must lie in [0, 1]."""
    for name in names:
        if not 0 <= getattr(config, name) <= 1:
            raise OptionError(f"{name} must be in [0, 1], got {getattr(config, name)}")


def check_shared(**numbers: int) -> None:
    """Each is divided among the processes, and so must be a multiple of their number."""
    for name, value in numbers.items():
        if value % world():
            raise OptionError(
                f"{name} must be a multiple of the {world()} processes that share it, got {value}"
            )


def each_of(name: str, number: int) -> str:
    """What of an option falls to each process, for an error: `batch (256)`."""
    return f"{name} ({number})" if world() == 1 else f"{name} / processes ({number} / {world()})"


def check_rule(config: Any) -> None:
    """How multipliers move: margin, gains, dual_lr and penalty, as constraint.Multipliers takes them."""
    check_positive(config, "dual_lr")
    if not 0 <= config.margin < 1:
        raise OptionError(f"margin must be in [0, 1), got {config.margin}")
    check_not_negative(config, "penalty", "gains")
    if config.penalty and config.limit_rule != "fixed":
        rule = f"is the multiplier of limit_rule 'fixed'; limit_rule is {config.limit_rule!r}"
        raise OptionError(f"penalty ({config.penalty}) {rule}")


def _numbers(config: Any, name: str) -> tuple[Any, ...]:
    got = getattr(config, name)
    return () if got is None else got if isinstance(got, tuple) else (got,)
