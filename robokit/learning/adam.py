"""Gradient, clipping and Adam on a module whose parameters are views of one flat vector.

    update = make_update(loss, Adam(net))            # loss(net, *batch) -> (0-d tensor, {name: 0-d tensor})
    parts = update(lr, *batch)                       # lr: a 0-d tensor; a new value needs no new compilation

Eager mode uses ordinary autograd. Compiled mode has loss, gradient, clipping and Adam in one graph.
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
TINY = 1e-30  # smaller moments are set to 0, before they become denormal numbers, which are slow on CPUs


class Flat:
    """All parameters of a module in one vector `flat`: they become its views, so writing it changes them."""

    def __init__(self, module: nn.Module) -> None:
        named = dict(module.named_parameters())
        self.module, self.methods = module, Methods(module)
        self.shapes = {name: p.shape for name, p in named.items()}
        self.flat = torch.cat([p.detach().flatten() for p in named.values()])
        for name, view in self.views(self.flat).items():
            named[name].data = view  # the module sees every update

    def views(self, flat: Tensor) -> Params:
        """{name: view} of a vector like `flat`, one per parameter, in the parameter's shape; no copies."""
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        return {k: part.view(shape) for (k, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def bound(self, graph: bool) -> Any:
        """The module; for a graph a Bound on views of `flat`, the only tensor that a compiled step writes."""
        return Bound(self.methods, self.views(self.flat)) if graph else self.module


class Bound:
    """A module with `params` for its own: `bound.method(*inputs)`, or `bound(*inputs)` for `forward`."""

    def __init__(self, methods: "Methods", params: Params) -> None:
        self._methods = methods
        self._params = {f"module.{name}": value for name, value in params.items()}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *inputs: torch.func.functional_call(self._methods, self._params, (name, *inputs))

    def __call__(self, *inputs: Any) -> Any:
        return torch.func.functional_call(self._methods, self._params, ("forward", *inputs))


class Methods(nn.Module):
    """forward(name, *inputs) calls the module's method `name`: functional_call calls only `forward`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, method: str, *inputs: Any) -> Any:
        return getattr(self.module, method)(*inputs)


class Adam(Flat):
    """Adam (Kingma & Ba 2015, algorithm 1) after clipping of the global gradient norm to max_grad_norm.

    max_grad_norm inf: none. rates: function from a parameter's name to the factor on its learning rate.
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
        # b1^t and b2^t: a compiled power would be computed again for every parameter
        self.powers = torch.ones(2, device=self.flat.device)
        self.betas = self.powers.new_tensor([BETA1, BETA2])
        self.eps, self.max_grad_norm = eps, max_grad_norm
        own = {name: rates(name) for name in self.shapes}
        parts = [self.flat.new_full((shape.numel(),), own[name]) for name, shape in self.shapes.items()]
        self.rates = torch.cat(parts) if set(own.values()) - {1.0} else None

    def apply(self, grads: list[Tensor], lr: Tensor) -> Tensor:
        """Apply one step to `flat` in place; return the mean gradient's norm before clipping, 0-d.

        grads: this process's, one per parameter, in order; first averaged over all processes. lr: 0-d.

        m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g^2
        p <- p - (lr r / (1 - b1^t)) m / (sqrt(v) + eps r),  r = sqrt(1 - b2^t)

        The algorithm's last line, expanded by r / r: one division per parameter instead of three.
        """
        grad = mean(torch.cat([g.flatten() for g in grads]))
        norm = grad.square().sum().sqrt()
        if self.max_grad_norm < math.inf:
            grad = grad * (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        self.powers.mul_(self.betas)
        bias1, bias2 = (1 - self.powers).unbind()
        root = bias2.sqrt()
        rate, eps = torch.stack((lr * root / bias1, self.eps * root)).unbind()
        self.first.lerp_(grad, 1 - BETA1)
        self.second.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
        for moment in (self.first, self.second):  # those of a dead unit decay to denormal numbers
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
    loss: Loss, adam: Adam, compile: bool = False, schedule: Callable[[Tensor, Losses], Tensor] | None = None
) -> Callable[..., Losses]:
    """A function update(lr, *batch) -> parts: one Adam step on `loss(adam.module, *batch)`.

    parts: those of the loss and "grad_norm". schedule: (lr, parts) -> the next learning rate, written into
    the tensor `lr`; None: `lr` stays. compile: every batch must then have the same shapes.
    """
    step = make_step(loss, adam, compile)

    def update(lr: Tensor, *batch: Any) -> Losses:
        parts = step(lr, *batch)
        if schedule is not None:
            lr.copy_(schedule(lr, parts))
        return parts

    return compiled(update, adam.flat.device, cpp_wrapper=True) if compile else update


def make_step(loss: Loss, adam: Adam, graph: bool) -> Callable[..., Losses]:
    """A function step(lr, *batch) -> parts of the loss and "grad_norm": one Adam step on `loss(net, *batch)`.

    net: adam.module. graph: net is a Bound, and the step can be traced by torch.compile as part of a larger
    function, but is slower without compilation.
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
