"""Gradients, clipping and Adam on a dict of parameters that aliases a module's own.

    update = make_update(net, loss, adam)            # loss(net, *batch) -> (0-d tensor, {name: 0-d tensor})
    parts = update(lr, *batch)                       # lr is a 0-d tensor, so that no schedule recompiles

Eager, the gradient is ordinary autograd; compiled, loss, gradient, clipping and Adam are one graph.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Params = dict[str, Tensor]
Parts = dict[str, Tensor]
Loss = Callable[..., tuple[Tensor, Parts]]
BETA1, BETA2 = 0.9, 0.999


class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1) behind a clip of the global gradient norm."""

    def __init__(self, module: nn.Module, eps: float = 1e-5, max_grad_norm: float = 0.5) -> None:
        self.params: Params = {k: p.detach() for k, p in module.named_parameters()}  # the module sees updates
        self.first = {k: torch.zeros_like(p) for k, p in self.params.items()}
        self.second = {k: torch.zeros_like(p) for k, p in self.params.items()}
        self.steps = torch.zeros((), device=next(iter(self.params.values())).device)
        self.eps, self.max_grad_norm = eps, max_grad_norm

    def apply(self, grads: list[Tensor], lr: Tensor) -> Tensor:
        """One step in place; grads in the order of `params`. Returns the gradient's norm before the clip.

        m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
        p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
        """
        first, second = list(self.first.values()), list(self.second.values())
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        grads = list(torch._foreach_mul(grads, (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)))
        self.steps.add_(1)
        torch._foreach_lerp_(first, grads, 1 - BETA1)
        torch._foreach_mul_(second, BETA2)
        torch._foreach_addcmul_(second, grads, grads, 1 - BETA2)
        scale = torch._foreach_sqrt(second)
        torch._foreach_div_(scale, (1 - BETA2**self.steps).sqrt())
        torch._foreach_add_(scale, self.eps)
        move = torch._foreach_div(first, scale)
        torch._foreach_mul_(move, lr / (1 - BETA1**self.steps))
        torch._foreach_sub_(list(self.params.values()), move)
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        moments = {f"{m}.{k}": v.clone() for m in ("first", "second") for k, v in getattr(self, m).items()}
        return {"steps": self.steps.clone(), **moments}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.steps.copy_(state["steps"])
        for moment in ("first", "second"):
            for key, value in getattr(self, moment).items():
                value.copy_(state[f"{moment}.{key}"])


def make_update(module: nn.Module, loss: Loss, adam: Adam, compile: bool = False) -> Callable[..., Parts]:
    """update(lr, *batch) -> parts: one Adam step of `module` on `loss(module, *batch)`."""

    parameters = list(module.parameters())

    def eager(lr: Tensor, *batch: Any) -> Parts:
        value, parts = loss(module, *batch)
        grads = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            return {**parts, "grad_norm": adam.apply(list(grads), lr)}

    def whole(lr: Tensor, *batch: Any) -> Parts:
        def objective(params: Params) -> tuple[Tensor, Parts]:
            return loss(lambda *inputs: torch.func.functional_call(module, params, inputs), *batch)

        grads, (_, parts) = torch.func.grad_and_value(objective, has_aux=True)(adam.params)
        return {**parts, "grad_norm": adam.apply(list(grads.values()), lr)}

    return torch.compile(whole) if compile else eager
