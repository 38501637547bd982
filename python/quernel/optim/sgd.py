"""Stochastic gradient descent."""

from __future__ import annotations

from typing import ClassVar

from quernel.errors import ArgumentError
from quernel.ops import optim as native
from quernel.optim.group import Check, ParamGroup, at_least_zero, flag
from quernel.optim.optimizer import Hyper, Optimizer, Params
from quernel.optim.segment import Run


class SGD(Optimizer):
    """Gradient descent with momentum, as ``torch.optim.SGD``.

    g = grad + weight_decay·p; buf = momentum·buf + (1 - dampening)·g, and g itself at the first step;
    p = p - lr·buf, with Nesterov's momentum p - lr·(g + momentum·buf) (Sutskever et al. 2013).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: 0 keeps no buffer.
        dampening: subtracted from the weight of the new gradient.
        weight_decay: L2 penalty.
        nesterov: look ahead; needs momentum > 0 and no dampening.

    Raises:
        ArgumentError: a value is NaN, infinite or out of range.

    Example:
        >>> w = qn.tensor([1.0], requires_grad=True)
        >>> opt = optim.SGD([w], lr=0.5)
        >>> (w * w).sum().backward()
        >>> opt.step()
        >>> w.item()
        0.0
    """

    _name = "sgd"
    _checks: ClassVar[dict[str, Check]] = {  # in the order of the kernel's hyper-parameters
        "lr": at_least_zero,
        "momentum": at_least_zero,
        "weight_decay": at_least_zero,
        "dampening": at_least_zero,
        "nesterov": flag,
    }

    momentum = Hyper[float]("Momentum, of all groups.")
    dampening = Hyper[float]("Dampening, of all groups.")
    nesterov = Hyper[bool]("Whether Nesterov's momentum is used, of all groups.")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ArgumentError(
                f"[sgd] nesterov needs momentum > 0 and dampening = 0, got {momentum} and {dampening}"
            )
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    def _state_names(self, group: ParamGroup) -> tuple[str, ...]:
        return ("momentum_buffer",) if group.peek("momentum") else ()

    def _update(self, group: ParamGroup, run: Run) -> None:
        buffer = run.state[0] if group.peek("momentum") else None
        native.sgd(run.param, run.grad, buffer, group.hyper, run.step)
