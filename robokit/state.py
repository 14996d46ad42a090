"""State in place: some rows of a tensor; all of it gathered into one flat dict for a checkpoint, and back."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

State = dict[str, Tensor]
Parts = Mapping[str, Any]  # name -> Tensor, Generator, or an object with state_dict and load_state_dict


def put(target: Tensor, which: Tensor, value: Tensor | float) -> None:
    """Write rows of `target` (N, ...) in place, without waiting for a device.

    which: row numbers (n,), each once, and value (n, ...); or a mask (N,) bool and value (N, ...), of which
    the rows in the mask are written. A number is written to all chosen rows.
    """
    if which.dtype == torch.bool:
        wide = which.view(-1, *[1] * (target.dim() - 1))
        target.copy_(torch.where(wide, value, target))
    elif isinstance(value, Tensor):
        target[which] = value.to(target.dtype)
    else:
        target[which] = value


def gather(parts: Parts) -> State:
    """{key: copy} of all parts: `name` for a tensor or generator, `name.key` for each key of a state_dict."""
    state: State = {}
    for name, part in parts.items():
        if isinstance(part, Tensor):
            state[name] = part.clone()
        elif isinstance(part, Generator):
            state[name] = part.get_state()
        else:
            state |= {f"{name}.{key}": value.clone() for key, value in part.state_dict().items()}
    return state


def scatter(parts: Parts, state: Mapping[str, Tensor]) -> None:
    """Write a state from `gather` into the same parts, in place; unchecked, further keys are ignored."""
    for name, part in parts.items():
        if isinstance(part, Tensor):
            part.copy_(state[name])
        elif isinstance(part, Generator):
            part.set_state(state[name].cpu())
        else:
            own = f"{name}."
            part.load_state_dict({k.removeprefix(own): v for k, v in state.items() if k.startswith(own)})


class Saved:
    """What is saved and restored as its parts: see `gather`, `scatter`."""

    def _parts(self) -> Parts:
        raise NotImplementedError

    def state_dict(self) -> State:
        """Copies of all that a bit-equal continuation needs."""
        return gather(self._parts())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from `state_dict()` of an equal object; the caller checks that."""
        scatter(self._parts(), state)


def load_weights(policy: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state_dict. Raises ValueError for a tensor of another dtype, and for one that is not finite."""
    for name, own in policy.state_dict().items():
        if name in state and (state[name].dtype != own.dtype or not state[name].isfinite().all()):
            rule = f"must be finite and of the dtype {own.dtype}"
            raise ValueError(f"{name} {rule}, and is of {state[name].dtype}")
    policy.load_state_dict(state)
