"""State dicts: tensors, generators and modules gathered into one flat dict for a checkpoint, and back."""

from collections.abc import Mapping
from typing import Any

from torch import Generator, Tensor

State = dict[str, Tensor]
Parts = Mapping[str, Any]  # name -> Tensor, Generator, or an object with state_dict and load_state_dict


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
