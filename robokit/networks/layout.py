"""What the numbers of a network's tensors belong to, and the move of weights to another network by names.

    state = moved(new.state_dict(), axes(layout), old.state_dict(), axes(old_layout))

An input belongs to a column of an observation term (and in a stack to one of its frames), or to an actuator;
an output to an actuator, to the reward or to a limit. Hidden units have no names and are matched by index.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robokit.disk.read import EACH, check_types
from robokit.networks.belief import KINDS, RECURRENT
from robokit.networks.mlp import ACTIVATIONS
from robokit.state import State

POLICIES = ("Gaussian", "SquashedGaussian", "Deterministic")
OPTIONS = ("hidden", "activation", "belief", "belief_size", "normalize_obs", "mirror")  # of a policy
SIZES = (*OPTIONS, "members", "layer_norm")
REWARD = "reward"
Name = tuple[Any, ...]  # of one row or column
MOST = 1 << 20  # columns, or units, of a network that can be read
TYPES = {
    **dict.fromkeys(("kind", "belief", "activation"), str),
    **dict.fromkeys(("normalize_obs", "mirror", "layer_norm"), bool),
    **dict.fromkeys(("belief_size", "members"), int),
    "terms": {EACH: int},
    "history": {EACH: int},
    "actuators": {EACH: [float]},
    "hidden": [int],
    "outputs": [[str]],
    "targets": {EACH: str},
    "gamma": float | None,
    "control_dt": float,
}


@dataclass(frozen=True)
class Layout:
    """Names of the inputs and outputs of a policy or of critics, and the sizes of its networks."""

    kind: str  # the class: one of POLICIES, Critic or ActionCritic
    terms: dict[str, int]  # widths of the observation terms, in order
    actuators: dict[str, tuple[float, float]]  # (center, half): ctrl = center + half * action; in order
    belief: str  # one of belief.KINDS, else the name of the class
    hidden: tuple[int, ...]
    activation: str  # "" without hidden layers; of a head that is no `mlp` the classes of its layers
    normalize_obs: bool
    belief_size: int = 0  # units of a recurrent belief
    history: dict[str, int] = field(default_factory=dict)  # frames of each term in a stack
    mirror: bool = False  # a policy's
    outputs: tuple[tuple[str, ...], ...] = ()  # of each of the critics' networks: REWARD, or limits
    targets: dict[str, str] = field(default_factory=dict)  # what these are trained on: measure, units
    gamma: float | None = None  # critics' discount; None: unknown
    members: int = 1  # E of an ActionCritic
    layer_norm: bool = False
    control_dt: float = 0.0  # s, a policy's

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Layout":
        """From JSON values. Raises KeyError, TypeError or ValueError for others, and for impossible sizes."""
        check_types(facts, TYPES, "the layout")
        numbers = [*facts["terms"].values(), *facts.get("history", {}).values(), *facts["hidden"]]
        frames = [facts.get("history", {}).get(name, 1) * width for name, width in facts["terms"].items()]
        sizes = [*numbers, facts.get("belief_size", 0), facts.get("members", 1), sum(frames)]
        if wrong := [size for size in sizes if not 0 <= size <= MOST]:
            raise ValueError(f"sizes in a layout must be from 0 to {MOST:,}, got {wrong[0]:,}")
        actuators = {str(name): (float(a), float(b)) for name, (a, b) in facts["actuators"].items()}
        outputs = tuple(tuple(map(str, names)) for names in facts["outputs"])
        widths = {str(name): int(width) for name, width in facts["terms"].items()}
        targets = {str(name): str(words) for name, words in facts.get("targets", {}).items()}
        own = {"terms": widths, "actuators": actuators, "outputs": outputs, "targets": targets}
        return cls(**{**facts, **own, "hidden": tuple(map(int, facts["hidden"]))})

    @property
    def named(self) -> bool:
        """Whether `axes` names every input and output: not so for a user's own head, belief or policy."""
        known = self.belief in KINDS and self.activation in ("", *ACTIVATIONS)
        return known and (bool(self.outputs) or self.kind in POLICIES)

    @property
    def squashed(self) -> bool:
        """Whether a policy's actions are a tanh, else clipped."""
        return self.kind != "Gaussian"

    def columns(self, term: str) -> list[Name]:
        """Names of a term's columns: its width is part of them; of the previous action, the actuators."""
        width = self.terms[term]
        if term == "action" and width == len(self.actuators):
            return [(term, actuator) for actuator in self.actuators]
        return [(term, width, i) for i in range(width)]

    def inputs(self) -> list[Name]:
        """Names of the columns of the observation."""
        return [name for term in self.terms for name in self.columns(term)]

    def features(self) -> list[Name]:
        """Names of the belief's features: see `Belief.out_dim`. A frame's age is 0 for the newest."""
        if self.belief == "stack":
            each = ((term, age) for term, n in self.history.items() for age in reversed(range(n)))
            return [(*name, age) for term, age in each for name in self.columns(term)]
        units = range(self.belief_size if self.belief in RECURRENT else 0)
        return [*self.inputs(), *(("unit", i) for i in units)]

    def learned(self) -> list[list[Name]]:
        """Names of each critic's outputs; `targets` are part of them, so that other ones begin anew."""
        return [[(name, self.targets.get(name, "")) for name in names] for names in self.outputs]


class Axis(NamedTuple):
    """Names along one dimension of a tensor."""

    names: list[Name]
    zero: bool  # a new name's weights are 0, so that it changes nothing at first; else they stay as they are


Axes = dict[
    str, dict[int, Axis]
]  # tensor -> dimension -> names; tensors and dimensions without names are not in it


def axes(layout: Layout) -> Axes:
    """The named dimensions of a policy's or of critics' state_dict."""
    actuators = [(name,) for name in layout.actuators]
    found = scales(layout.inputs(), "normalizer.")
    if not layout.outputs:
        means, spreads = ([(what, *name) for name in actuators] for what in ("mean", "log_std"))
        outputs = [*means, *(spreads if layout.kind == "SquashedGaussian" else [])]
        found |= {"log_std": {0: Axis(spreads, False)}}
        return found | _driven(layout, "belief") | _mlp(layout, "head", outputs)
    for i, outputs in enumerate(layout.learned()):
        found |= _driven(layout, f"beliefs.{i}")
        if layout.kind == "Critic":
            found |= _mlp(layout, f"heads.{i}", outputs)
        else:
            found |= _ensemble(layout, f"ensembles.{i}", actuators, outputs)
    return found


def scales(names: list[Name], prefix: str) -> Axes:
    """The dimensions of a Normalizer of these columns; a new one is as in a new normaliser."""
    return {f"{prefix}{key}": {0: Axis(names, False)} for key in ("mean", "var", "count")}


def _driven(layout: Layout, belief: str) -> Axes:
    recurrent = layout.belief in RECURRENT
    return {f"{belief}.inputs.weight": {1: Axis(layout.inputs(), True)}} if recurrent else {}


def _mlp(layout: Layout, name: str, outputs: list[Name]) -> Axes:
    last = f"{name}.{2 * len(layout.hidden)}"
    found: Axes = {f"{last}.weight": {0: Axis(outputs, False)}, f"{last}.bias": {0: Axis(outputs, False)}}
    found.setdefault(f"{name}.0.weight", {})[1] = Axis(layout.features(), True)
    return found


def _ensemble(layout: Layout, name: str, actuators: list[Name], outputs: list[Name]) -> Axes:
    last = len(layout.hidden)
    found: Axes = {f"{name}.{x}.{last}": {2: Axis(outputs, False)} for x in ("weights", "biases")}
    found.setdefault(f"{name}.weights.0", {})[1] = Axis([*layout.features(), *actuators], True)
    return found


def moved(own: Mapping[str, Tensor], names: Axes, theirs: Mapping[str, Tensor], their_names: Axes) -> State:
    """`own` with the numbers of `theirs`, by the names along each dimension; on the devices of `own`.

    A tensor that `theirs` lacks, and a row of a name that it lacks, stay as they are; a column of such a name
    becomes 0 (see Axis). Raises ValueError for a tensor whose other dimensions differ.
    """
    return {
        key: _moved(key, x, theirs[key], names.get(key, {}), their_names.get(key, {})) if key in theirs else x
        for key, x in own.items()
    }


def _moved(
    key: str, own: Tensor, theirs: Tensor, names: Mapping[int, Axis], their_names: Mapping[int, Axis]
) -> Tensor:
    value, kept = theirs.to(own), torch.zeros_like(own, dtype=torch.bool)
    for dim, axis in names.items():
        places = {name: i for i, name in enumerate(their_names[dim].names)}
        index = torch.tensor([places.get(name, 0) for name in axis.names], device=own.device)
        lacking = torch.tensor([name not in places for name in axis.names], device=own.device)
        lacking = lacking.view([-1 if d == dim else 1 for d in range(own.dim())])
        value = value.index_select(dim, index)
        if axis.zero:
            value = value.masked_fill(lacking, 0)
        else:
            kept = kept | lacking
    if value.shape != own.shape:
        raise ValueError(f"{key} has shape {tuple(own.shape)}, the other one {tuple(value.shape)}")
    return torch.where(kept, own, value)


def missing(names: Iterable[Name], among: Iterable[Name]) -> list[Name]:
    """Those of `names` that are not `among` the others, in order."""
    known = set(among)
    return [name for name in names if name not in known]
