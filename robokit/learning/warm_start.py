"""What a training takes over from another one's networks, by their layouts, and in words what it does not.

start = compare("hopper/2026-11-30_10-00-00", {"policy": ours, "critic": ...}, {"policy": theirs})
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from robokit.errors import OptionError
from robokit.networks.layout import SIZES, Layout, Name, missing

Layouts = Mapping[str, Layout]  # "policy", "critic"


@dataclass(frozen=True)
class Start:
    """What a training takes over from a parent."""

    same: bool  # whether the first policy is the parent's, for the actuators that both have
    critics: bool  # whether these are taken over too
    lines: list[str]  # all that differs, for people


def compare(name: str, own: Layouts, parent: Layouts) -> Start:
    """What a training takes over from a parent of this name, which may have no critic.

    Raises OptionError if the policies' networks differ in size or kind, or share no actuator or observation.
    """
    ours, theirs = own["policy"], parent["policy"]
    _check(name, ours, theirs)
    dropped = missing(theirs.features(), ours.features())
    same = not dropped and ours.squashed == theirs.squashed
    critics, words = _critics(own, parent)
    lines = [*_observations(ours, theirs), *_actuators(ours, theirs), *_squashing(ours, theirs), words]
    return Start(same, critics, lines)


def _check(name: str, ours: Layout, theirs: Layout) -> None:
    """Raise OptionError unless weights can move by name from the parent of this name."""
    if not (ours.named and theirs.named):
        odd = next(x for x in (ours, theirs) if not x.named)
        raise OptionError(
            f"a {odd.kind} with a belief {odd.belief!r} is unknown here: its weights have no names"
        )
    for what, own, other in (
        ("actuators", [*ours.actuators], [*theirs.actuators]),
        ("observations", [*ours.terms], [*theirs.terms]),
    ):
        if not {*own} & {*other}:
            raise OptionError(
                f"{name} is of another robot: its {what} {other}, here {own}: none has the same name"
            )
    if differ := _sizes(ours, theirs):
        values = "; ".join(f"its {key} is {other}, here {own}" for key, own, other in differ)
        remedy = " ".join(_option(key, other) for key, _, other in differ)
        raise OptionError(f"{name} is a policy of another network: {values}; give {remedy}")


def _sizes(ours: Layout, theirs: Layout) -> list[tuple[str, Any, Any]]:
    each = ((key, getattr(ours, key), getattr(theirs, key)) for key in SIZES)
    return [(key, own, other) for key, own, other in each if own != other]


def _option(key: str, value: Any) -> str:
    option = key.replace("_", "-")
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{option}"
    return f"--{option} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def _observations(ours: Layout, theirs: Layout) -> Iterator[str]:
    for term in ours.terms | theirs.terms:
        own, other = ours.terms.get(term), theirs.terms.get(term)
        if other is None:
            yield f"new observation {term!r} ({own}): weight zero at first"
        elif own is None:
            yield f"observation {term!r} ({other}) is gone: its weights are dropped"
        elif own != other and missing(ours.columns(term), theirs.columns(term)) == ours.columns(term):
            yield f"observation {term!r} has {own} numbers, had {other}: begins anew with weight zero"
        elif (frames := ours.history.get(term, 1)) != (had := theirs.history.get(term, 1)):
            older = "the older ones' weight is zero at first" if frames > had else "the oldest are dropped"
            yield f"observation {term!r} has {frames} frames, had {had}: {older}"
    if _order([*ours.terms], [*theirs.terms]):
        yield "observations are in another order: moved by name"


def _actuators(ours: Layout, theirs: Layout) -> Iterator[str]:
    for name in ours.actuators | theirs.actuators:
        own, other = ours.actuators.get(name), theirs.actuators.get(name)
        if other is None:
            yield f"new actuator {name!r}: its output begins at random"
        elif own is None:
            yield f"actuator {name!r} is gone: its output, and what observed its action, are dropped"
        elif own != other:
            now, then = (f"{center:g} + {half:g} a" for center, half in (own, other))
            yield f"actuator {name!r}: an action a is the target {now}, was {then}"
    if ours.control_dt != theirs.control_dt:
        yield f"a control period is {ours.control_dt:g} s, was {theirs.control_dt:g} s"
    if _order([*ours.actuators], [*theirs.actuators]):
        yield "actuators are in another order: moved by name"


def _order(ours: list[str], theirs: list[str]) -> bool:
    return [name for name in ours if name in theirs] != [name for name in theirs if name in ours]


def _squashing(ours: Layout, theirs: Layout) -> Iterator[str]:
    if ours.squashed != theirs.squashed:
        words = ("clips its actions", "takes their tanh")
        yield f"a {theirs.kind} {words[theirs.squashed]}, a {ours.kind} {words[ours.squashed]}"
    if ours.kind != theirs.kind:
        yield f"the spread of exploration begins anew: from a {theirs.kind} to a {ours.kind}"


def _critics(own: Layouts, parent: Layouts) -> tuple[bool, str]:
    """Whether critics are taken over, and what differs, in words."""
    ours, theirs = own["critic"], parent.get("critic")
    if theirs is None:
        return False, "critics begin anew: the parent has none"
    if (kind := own["policy"].kind) != (other := parent["policy"].kind):
        return False, f"critics begin anew: of a {kind}, the parent's of a {other}"
    if differ := _sizes(ours, theirs):
        values = "; ".join(f"{key} {own}, the parent's {other}" for key, own, other in differ)
        return False, f"critics begin anew: {values}"
    named = [{name for names in x.outputs for name in names} for x in (ours, theirs)]
    found = {
        "inputs new, with weight zero": _terms(missing(ours.features(), theirs.features())),
        "inputs dropped": _terms(missing(theirs.features(), ours.features())),
        "outputs anew": sorted(named[0] - named[1]),
        "outputs dropped": sorted(named[1] - named[0]),
    }
    return True, "critics go on" + "".join(f"; {words}: {', '.join(x)}" for words, x in found.items() if x)


def _terms(names: list[Name]) -> list[str]:
    return list(dict.fromkeys(str(name[0]) for name in names))
