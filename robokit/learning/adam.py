"""Gradients, clipping and Adam on the parameters of a module, laid out as one vector that the module aliases.

    update = make_update(loss, Adam(net))            # loss(net, *batch) -> (0-d tensor, {name: 0-d tensor})
    parts = update(lr, *batch)                       # lr is a 0-d tensor, so that no schedule recompiles

Eager, the gradient is ordinary autograd; compiled, loss, gradient, clipping and Adam are one graph.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robokit.compute.compile import compiled
from robokit.compute.processes import mean

Params = dict[str, Tensor]
Losses = dict[str, Tensor]
Loss = Callable[..., tuple[Tensor, Losses]]
BETA1, BETA2 = 0.9, 0.999
TINY = 1e-30  # a moment below it is 0: it moves nothing, and further down each costs a processor 100 cycles


class Flat:
    """The parameters of a module, laid out as one vector that the module aliases."""

    def __init__(self, module: nn.Module) -> None:
        named = dict(module.named_parameters())
        self.module, self.methods = module, Methods(module)
        self.shapes = {name: p.shape for name, p in named.items()}
        self.flat = torch.cat([p.detach().flatten() for p in named.values()])
        for name, view in self.views(self.flat).items():
            named[name].data = view  # the module sees every update

    def views(self, flat: Tensor) -> Params:
        """A vector as long as all parameters together, cut up into their names and shapes."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        return {k: part.view(shape) for (k, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def bound(self, graph: bool) -> Any:
        """The module, for its methods to be called; in a graph over the vector, which alone is written."""
        return Bound(self.methods, self.views(self.flat)) if graph else self.module


class Bound:
    """A module's methods with other parameters: `bound.method(*inputs)`."""

    def __init__(self, methods: "Methods", params: Params) -> None:
        self._methods = methods
        self._params = {f"module.{name}": value for name, value in params.items()}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *inputs: torch.func.functional_call(self._methods, self._params, (name, *inputs))

    def __call__(self, *inputs: Any) -> Any:
        return torch.func.functional_call(self._methods, self._params, ("forward", *inputs))


class Methods(nn.Module):
    """All methods of a module behind `forward`, which is the only one that functional_call calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, *inputs: Any) -> Any:
        return getattr(self.module, method)(*inputs)


class Adam(Flat):
    """Adam (Kingma & Ba 2015, algorithm 1) behind a clip of the global gradient norm.

    rates: the share of the learning rate that each parameter learns with, by its name.
    """

    def __init__(
        self,
        module: nn.Module,
        eps: float = 1e-5,
        max_grad_norm: float = 0.5,
        rates: Callable[[str], float] = lambda name: 1.0,
    ) -> None:
        super().__init__(module)
        self.first, self.second = torch.zeros_like(self.flat), torch.zeros_like(self.flat)
        # b1^t and b2^t: a graph that took powers would take them anew for every parameter
        self.powers = torch.ones(2, device=self.flat.device)
        self.betas = self.powers.new_tensor([BETA1, BETA2])
        self.eps, self.max_grad_norm = eps, max_grad_norm
        own = {name: rates(name) for name in self.shapes}
        parts = [self.flat.new_full((shape.numel(),), own[name]) for name, shape in self.shapes.items()]
        self.rates = torch.cat(parts) if set(own.values()) - {1.0} else None

    def apply(self, grads: list[Tensor], lr: Tensor) -> Tensor:
        """One step in place; grads in the order of the parameters. Returns their norm before the clip.

        Of several processes it is the mean of their gradients that each of them steps by.

        m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
        p <- p - (lr r / (1 - b1^t)) m / (sqrt(v) + eps r),  r = sqrt(1 - b2^t)

        which is the algorithm's last line times r / r: one division for each parameter, not three.
        """
        grad = mean(torch.cat([g.flatten() for g in grads]))
        norm = grad.square().sum().sqrt()
        if self.max_grad_norm < math.inf:
            grad = grad * (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        self.powers.mul_(self.betas)
        left1, left2 = (1 - self.powers).unbind()
        root = left2.sqrt()
        rate, eps = torch.stack((lr * root / left1, self.eps * root)).unbind()
        self.first.lerp_(grad, 1 - BETA1)
        self.second.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
        for moment in (self.first, self.second):  # of a dead unit they would end below the normal numbers
            moment.copy_(nn.functional.hardshrink(moment, TINY))
        step = self.first / (self.second.sqrt() + eps)
        self.flat.sub_((rate if self.rates is None else rate * self.rates) * step)
        return norm

    def state_dict(self) -> dict[str, Tensor]:
        moments = {"first": self.views(self.first), "second": self.views(self.second)}
        named = {f"{m}.{k}": v.clone() for m, views in moments.items() for k, v in views.items()}
        return {"powers": self.powers.clone(), **named}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.powers.copy_(state["powers"])
        for moment, flat in (("first", self.first), ("second", self.second)):
            for key, value in self.views(flat).items():
                value.copy_(state[f"{moment}.{key}"])


def make_update(
    loss: Loss,
    adam: Adam,
    compile: bool = False,
    schedule: Callable[[Tensor, Losses], Tensor] | None = None,
) -> Callable[..., Losses]:
    """update(lr, *batch) -> parts: one Adam step on `loss(module, *batch)`, of adam's own module.

    `schedule(lr, parts)` is the learning rate after the step, written into `lr`. Compiled, every batch must
    have the shapes of the first.
    """
    step = make_step(loss, adam, compile)

    def update(lr: Tensor, *batch: Any) -> Losses:
        parts = step(lr, *batch)
        if schedule is not None:
            lr.copy_(schedule(lr, parts))
        return parts

    return compiled(update, adam.flat.device) if compile else update


def make_step(loss: Loss, adam: Adam, graph: bool) -> Callable[..., Losses]:
    """step(lr, *batch) -> parts: one Adam step on `loss(module, *batch)`, of adam's own module.

    graph: so written that it can be compiled as a part of something larger; slower, where it is not.
    """
    parameters = list(adam.module.parameters())

    def eager(lr: Tensor, *batch: Any) -> Losses:
        with torch.enable_grad():
            value, parts = loss(adam.module, *batch)
            grads = torch.autograd.grad(value, parameters, materialize_grads=True)
        with torch.no_grad():
            return {**parts, "grad_norm": adam.apply(list(grads), lr)}

    def traced(lr: Tensor, *batch: Any) -> Losses:
        # a lambda: torch cannot trace the annotations of a nested def
        objective = lambda params: loss(Bound(adam.methods, params), *batch)  # noqa: E731
        grads, (_, parts) = torch.func.grad_and_value(objective, has_aux=True)(adam.views(adam.flat))
        return {**parts, "grad_norm": adam.apply(list(grads.values()), lr)}

    return traced if graph else eager
