"""What a training takes over from its parent, by the layouts of both, and in words what it does not.

takeover = compare("hopper/2026-11-30_10-00-00", {"policy": ours, "critic": ...}, {"policy": theirs})
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from robokit.errors import OptionError
from robokit.networks.layout import OPTIONS, SIZES, Axes, Layout, axes, missing, moved, scales
from robokit.state import State

Layouts = Mapping[str, Layout]  # "policy", "critic"
ANEW = "anew: optimiser, random numbers, multipliers of other limits"
KEEPING_LR = 3e-4  # see docs/init-from.md for what a larger one does


@dataclass(frozen=True)
class Takeover:
    """What a training takes over from a parent."""

    same: bool  # whether the first policy is the parent's, for the actuators that both have
    critics: bool  # whether these are taken over too
    lines: list[str]  # all that differs, for people

    def adding(self, line: str) -> "Takeover":
        """With a line more."""
        return replace(self, lines=[*self.lines, line])

    def at(self, lr: float) -> "Takeover":
        """With a line about a learning rate at which gradient steps soon undo what was taken over."""
        words = f"note: lr {lr:g} is one for a new policy and may undo this one"
        return self.adding(f"{words}; --lr {KEEPING_LR:g} keeps more") if lr > KEEPING_LR else self

    def report(self, name: str, steps: int | None) -> list[str]:
        """In lines of text, for a parent of this name and step."""
        known = "" if steps is None else f", step {steps}"
        first = "the first policy is the parent's" if self.same else "the first policy is NOT the parent's"
        return [f"from {name}{known}: {first}", *(f"  {line}" for line in (*self.lines, ANEW))]


def compare(name: str, own: Layouts, parent: Layouts) -> Takeover:
    """What a training takes over from a parent of this name, which may have no critic.

    Raises OptionError if the policies' networks differ in size or kind, share no actuator or no observation,
    or if one is of a user's own.
    """
    ours, theirs = own["policy"], parent["policy"]
    _check(name, ours, theirs)
    dropped = missing(theirs.features(), ours.features())
    same = not dropped and ours.squashed == theirs.squashed
    critics, words = _critics(own, parent)
    lines = [*_observations(ours, theirs), *_actuators(ours, theirs), *_squashing(ours, theirs), words]
    return Takeover(same, critics, lines)


def _check(name: str, ours: Layout, theirs: Layout) -> None:
    """Raise OptionError unless weights can move by name from the parent of this name."""
    for who, layout in ((name, theirs), ("the new policy", ours)):
        if not layout.named:
            made = ", ".join((layout.kind, layout.belief, layout.activation))
            raise OptionError(f"{who} is a network of its own ({made}): its weights have no names to move by")
    for what, own, other in (
        ("actuators", [*ours.actuators], [*theirs.actuators]),
        ("observations", [*ours.terms], [*theirs.terms]),
    ):
        if not {*own} & {*other}:
            names = f"its {what} {other}, here {own}: none has the same name"
            raise OptionError(f"{name} is of another robot: {names}")
    if differ := _sizes(ours, theirs):
        values = "; ".join(f"its {key} is {other}, here {own}" for key, own, other in differ)
        keys, wanted = [key for key, _, _ in differ], network_options(theirs)
        remedy = as_arguments({key: wanted[key] for key in keys if key in wanted})
        raise OptionError(f"{name} is a policy of another network: {values}; give {remedy}")


def network_options(layout: Layout) -> dict[str, Any]:
    """The options that give a policy the network of a layout."""
    each = {key: getattr(layout, key) for key in OPTIONS}
    unused = {"activation"} if not layout.hidden else set[str]()
    unused |= {"belief_size"} if not layout.belief_size else set()
    return {key: value for key, value in each.items() if key not in unused}


def as_arguments(options: Mapping[str, Any]) -> str:
    """Options as the command line takes them: `--hidden 64 64 --normalize-obs`."""
    return " ".join(_option(key, value) for key, value in options.items())


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
    now, then = ([name for names in x.learned() for name in names] for x in (ours, theirs))
    gone = {name for name, _ in then} - {name for name, _ in now}
    found = {
        "inputs new, with weight zero": _terms(missing(ours.features(), theirs.features())),
        "inputs dropped": _terms(missing(theirs.features(), ours.features())),
        "outputs anew": sorted(_output(name, of, dict(then)) for name, of in missing(now, then)),
        "outputs dropped": sorted(gone),
        "gamma": [] if theirs.gamma in (None, ours.gamma) else [f"{ours.gamma}, the parent's {theirs.gamma}"],
    }
    return True, "critics go on" + "".join(f"; {what}: {', '.join(x)}" for what, x in found.items() if x)


def _output(name: str, learned: str, theirs: Mapping[str, str]) -> str:
    """A limit that begins anew: alone, or with what it is and what the parent's of its name was."""
    return f"{name} ({learned}; the parent's {theirs[name] or 'unknown'})" if name in theirs else name


def _terms(names: list[tuple[Any, ...]]) -> list[str]:
    return list(dict.fromkeys(str(name[0]) for name in names))


def same_limits(
    own: Layouts, limits: Mapping[str, float], parent: Layouts, theirs: Mapping[str, float]
) -> list[str]:
    """Limits {name: value} that the parent had too, of the same value, measure, `largest` and `absorb`."""
    now, then = ({n for names in x["critic"].learned() for n in names} for x in (own, parent))
    return [limit for limit, _ in sorted(now & then) if limits.get(limit, -1) == theirs.get(limit)]


def check_weights(name: str, ours: State, theirs: State) -> None:
    """Raise OptionError unless the policy of the parent of this name has the tensors that the new one has."""
    if odd := sorted((ours.keys() ^ theirs.keys()) - {"log_std"}):
        rule = f"{name} has a network of its own: its weights are not those of this one"
        raise OptionError(f"{rule}, which differ in {', '.join(odd)}")


def weights(
    networks: Mapping[str, nn.Module], own: Layouts, tensors: State, layouts: Layouts
) -> dict[str, State]:
    """State_dicts of a learner's networks with the tensors of a parent's state; own, layouts: of the two."""
    names, theirs = _names(own), _names(layouts)
    states = {name: under(name, tensors) for name in networks}
    return {
        name: moved(networks[name].state_dict(), names[name], state, theirs[name])
        for name, state in states.items()
        if state
    }


def under(name: str, state: Mapping[str, Tensor]) -> State:
    """The tensors of one part of a learner's state."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}


def _names(layouts: Layouts) -> dict[str, Axes]:
    """Names in the tensors of each of a learner's networks."""
    critic = layouts.get("critic")
    outputs = [name for names in critic.learned() for name in names] if critic else []
    named = {name: axes(layout) for name, layout in layouts.items()}
    return {**named, "return_scale": scales(outputs, ""), "temperature": {}}
