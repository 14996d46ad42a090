"""Beliefs: a policy's memory as a tensor (N, B), an argument and a return value, never an attribute.

    belief = make_belief("gru", {"position": 5}, size=64)
    features, h = belief(obs, h, is_first, normalizer)           # one control step of N simulations
    features, hs = belief.unroll(obs, h, is_first, normalizer)   # L steps of M, from the belief before them

To add a kind: derive a class from Belief, implement `forward`, and add it to Kind and make_belief.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from robokit.errors import OptionError
from robokit.networks.normalizer import Normalizer

SPAN = 100.0  # control steps, initial time constant of the slowest recurrent units


class Belief(nn.Module, ABC):
    """Memory of past observations, a tensor (N, B), and the features (N, F) for a head."""

    size: int  # B, may be 0
    out_dim: int  # F
    trained: bool = False  # whether gradients flow through it, back in time

    @abstractmethod
    def forward(
        self, obs: Tensor, belief: Tensor, is_first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        """Features (N, F) and the next belief (N, B) after a raw observation (N, O).

        is_first (N,) bool: an episode begins. The belief is cleared there by `where`, which removes NaN too.
        """

    def unroll(
        self, obs: Tensor, belief: Tensor, is_first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        """Features (L, M, F) and the belief (L, M, B) after each of L frames, from belief (M, B) before them.

        The same as L calls of `forward`; obs (L, M, O), is_first (L, M) bool.
        """
        features, beliefs = [], []
        for frame, begins in zip(obs, is_first, strict=True):
            seen, belief = self(frame, belief, begins, normalizer)
            features.append(seen)
            beliefs.append(belief)
        return torch.stack(features), torch.stack(beliefs)


class Memoryless(Belief):
    """No memory, B = 0: the features are the current frame, normalised."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.size, self.out_dim = 0, sum(widths.values())

    def forward(
        self, obs: Tensor, belief: Tensor, is_first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        return normalizer(obs), belief

    def unroll(
        self, obs: Tensor, belief: Tensor, is_first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        return normalizer(obs), belief.expand(len(obs), *belief.shape)


class Stack(Belief):
    """The last H raw frames of each term, term by term, oldest first; the features are normalised.

    At the start of an episode every slot holds the first frame. history: one H for all terms, or {term: H},
    1 for a term that is not in it. widths: {term: columns}, in the order of obs.
    """

    source: Tensor
    shift: Tensor

    def __init__(self, widths: Mapping[str, int], history: int | Mapping[str, int]) -> None:
        super().__init__()
        self.lengths = lengths = frames_of(widths, history)
        source, shift, column = [], [], 0
        self.size = self.out_dim = sum(widths[k] * n for k, n in lengths.items())
        for name, width in widths.items():
            for frame in range(lengths[name]):
                newest = frame == lengths[name] - 1
                source += range(column, column + width)
                slot = len(shift)
                shift += (
                    range(self.size + column, self.size + column + width)
                    if newest
                    else range(slot + width, slot + 2 * width)
                )
            column += width
        self.register_buffer("source", torch.tensor(source), persistent=False)  # slot -> column of obs
        # slot -> column of [belief | obs]
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(
        self, obs: Tensor, belief: Tensor, is_first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        shifted = torch.cat((belief, obs), -1).index_select(1, self.shift)
        belief = torch.where(is_first[:, None], obs.index_select(1, self.source), shifted)
        return normalizer(belief, self.source), belief


def frames_of(terms: Iterable[str], history: int | Mapping[str, int]) -> dict[str, int]:
    """Frames that a Stack keeps of each term."""
    return {name: history if isinstance(history, int) else history.get(name, 1) for name in terms}


class Recurrent(Belief):
    """A recurrent cell with state h; subclasses implement the cell.

    features = [normalised obs, h]: the current frame also reaches the head without passing through the cell.
    """

    trained = True
    inputs: nn.Linear  # normalised obs -> gate inputs (N, G), independent of the belief

    def __init__(self, widths: Mapping[str, int], size: int, gates: int, states: int = 1) -> None:
        super().__init__()
        frame = sum(widths.values())
        self.units, self.size, self.out_dim = size, states * size, frame + size
        self.inputs = nn.Linear(frame, gates * size)
        _orthogonal(self.inputs, gates)

    @abstractmethod
    def cell(self, driven: Tensor, belief: Tensor) -> Tensor:
        """The next belief (N, B) from driven (N, G), output of the `inputs` layer, and the belief (N, B)."""

    def forward(
        self, obs: Tensor, belief: Tensor, is_first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        frame = normalizer(obs)
        belief = self.cell(self.inputs(frame), torch.where(is_first[:, None], 0.0, belief))
        return torch.cat((frame, belief[:, : self.units]), -1), belief

    def unroll(
        self, obs: Tensor, belief: Tensor, is_first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        frames, beliefs = normalizer(obs), []
        for driven, begins in zip(self.inputs(frames).unbind(), is_first.unbind(), strict=True):
            belief = self.cell(driven, torch.where(begins[:, None], 0.0, belief))
            beliefs.append(belief)
        after = torch.stack(beliefs)
        return torch.cat((frames, after[..., : self.units]), -1), after


class GRU(Recurrent):
    """Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078; reset gate after the product, as in torch).

    r = sigmoid(x_r + U_r h),  z = sigmoid(x_z + U_z h),  n = tanh(x_n + r (U_n h + b_n))
    h' = (1 - z) n + z h
    """

    def __init__(self, widths: Mapping[str, int], size: int) -> None:
        super().__init__(widths, size, gates=3)
        self.recurrent = nn.Linear(size, 3 * size)
        _orthogonal(self.recurrent, 3)
        self.inputs.bias.data[size : 2 * size] = time_constants(size)

    def cell(self, driven: Tensor, belief: Tensor) -> Tensor:
        xr, xz, xn = driven.chunk(3, -1)
        hr, hz, hn = self.recurrent(belief).chunk(3, -1)
        reset, keep = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        new = torch.tanh(xn + reset * hn)
        return new + keep * (belief - new)


class LSTM(Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000).

        i, f, o = sigmoid(...),  g = tanh(x_g + U_g h),  c' = f c + i g,  h' = o tanh(c')

    The belief is [h, c].
    """

    def __init__(self, widths: Mapping[str, int], size: int) -> None:
        super().__init__(widths, size, gates=4, states=2)
        self.recurrent = nn.Linear(size, 4 * size, bias=False)
        _orthogonal(self.recurrent, 4)
        slow = time_constants(size)
        self.inputs.bias.data[: 2 * size] = torch.cat((-slow, slow))

    def cell(self, driven: Tensor, belief: Tensor) -> Tensor:
        h, c = belief.chunk(2, -1)
        i, f, g, o = (driven + self.recurrent(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.cat((torch.sigmoid(o) * torch.tanh(c), c), -1)


class MinGRU(Recurrent):
    """A GRU whose gates do not depend on h (Feng et al. 2024, arXiv:2410.01201, section 3.1): linear in time.

        z = sigmoid(x_z),  h' = (1 - z) h + z x_h

    so that `unroll` takes log2(L) parallel passes (Hillis & Steele 1986) instead of L sequential steps.
    """

    def __init__(self, widths: Mapping[str, int], size: int) -> None:
        super().__init__(widths, size, gates=2)
        self.inputs.bias.data[:size] = -time_constants(size)

    def cell(self, driven: Tensor, belief: Tensor) -> Tensor:
        update, new = driven.chunk(2, -1)
        return torch.lerp(belief, new, torch.sigmoid(update))

    def unroll(
        self, obs: Tensor, belief: Tensor, is_first: Tensor, normalizer: Normalizer
    ) -> tuple[Tensor, Tensor]:
        frames = normalizer(obs)
        update, new = self.inputs(frames).chunk(2, -1)
        after = linear_recurrence(torch.sigmoid(-update), torch.sigmoid(update) * new, belief, is_first)
        return torch.cat((frames, after), -1), after


def linear_recurrence(keep: Tensor, add: Tensor, start: Tensor, is_first: Tensor) -> Tensor:
    """All h_t = keep_t h_{t-1} + add_t, (L, M, F), h_0 = start; but h_t = add_t where is_first (L, M) bool.

    start (M, F), not in the result. log2(L) passes, by doubling. Values before an `is_first` are masked, not
    multiplied by 0: they may be NaN.
    """
    cut, reach = is_first[..., None], 1  # cut[t]: an episode began within the last `reach` steps up to t
    add = torch.cat((add[:1] + torch.where(cut[:1], 0.0, keep[:1] * start), add[1:]))
    while reach < len(add):
        earlier = torch.where(cut[reach:], 0.0, keep[reach:] * add[:-reach])
        add = torch.cat((add[:reach], add[reach:] + earlier))
        keep = torch.cat((keep[:reach], keep[reach:] * keep[:-reach]))
        cut = torch.cat((cut[:reach], cut[reach:] | cut[:-reach]))
        reach *= 2
    return add


def time_constants(size: int) -> Tensor:
    """Biases (size,) of a keep gate with time constants tau of 2 to SPAN steps, on a logarithmic scale.

    sigmoid(log(tau - 1)) = 1 - 1 / tau (Tallec & Ollivier 2018, arXiv:1804.11188, chrono initialisation).
    """
    return torch.log(torch.logspace(math.log10(2.0), math.log10(SPAN), size) - 1)


def _orthogonal(linear: nn.Linear, gates: int) -> None:
    """Initialise in place: each gate's weights, a block of rows, as an orthogonal matrix; biases as zero."""
    for block in linear.weight.data.chunk(gates):
        nn.init.orthogonal_(block)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


Kind = Literal["memoryless", "stack", "gru", "lstm", "mingru"]
KINDS: tuple[Kind, ...] = get_args(Kind)
RECURRENT: dict[str, type[GRU] | type[LSTM] | type[MinGRU]] = {"gru": GRU, "lstm": LSTM, "mingru": MinGRU}


def make_belief(
    kind: str, widths: Mapping[str, int], history: int | Mapping[str, int] = 1, size: int = 64
) -> Belief:
    """A belief of a kind in KINDS for observation terms {name: width}; size: units of a recurrent belief.

    history: frames of a Stack, unused by other kinds; must have passed `rules.check_history`. Raises
    OptionError for an unknown kind or a size < 1.
    """
    if kind not in KINDS:
        raise OptionError(f"belief must be one of {[*KINDS]}, got {kind!r}")
    if size < 1:
        raise OptionError(f"belief_size must be at least 1 unit, got {size}")
    if kind in RECURRENT:
        return RECURRENT[kind](widths, size)
    return Stack(widths, history) if kind == "stack" else Memoryless(widths)
