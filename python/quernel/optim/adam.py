"""Adam and AdamW."""

from __future__ import annotations

from typing import ClassVar

from quernel.ops import optim as native
from quernel.optim.group import Check, ParamGroup, at_least_zero, two_below_one
from quernel.optim.optimizer import Hyper, Optimizer, Params
from quernel.optim.segment import Run


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as ``torch.optim.Adam``.

    g = grad + weight_decay·p; m = beta1·m + (1 - beta1)·g; v = beta2·v + (1 - beta2)·g²;
    p = p - lr / (1 - beta1^t) · m / (sqrt(v / (1 - beta2^t)) + eps), t the number of updates of p.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the denominator.
        weight_decay: L2 penalty.

    Raises:
        ArgumentError: a value is NaN, infinite or out of range.

    Example:
        >>> w = qn.tensor([1.0], requires_grad=True)
        >>> opt = optim.Adam([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> opt.step()
        >>> round(w.item(), 4)
        0.9
    """

    _name = "adam"
    _checks: ClassVar[dict[str, Check]] = {  # in the order of the kernel's hyper-parameters
        "lr": at_least_zero,
        "betas": two_below_one,
        "eps": at_least_zero,
        "weight_decay": at_least_zero,
    }
    _constants = (0.0,)  # weight decay is not decoupled

    betas = Hyper[tuple[float, float]](
        "Decay of the averages of gradients and of their squares, of all groups."
    )
    eps = Hyper[float]("Added to the denominator, of all groups.")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _state_names(self, group: ParamGroup) -> tuple[str, ...]:  # noqa: ARG002
        return ("exp_avg", "exp_avg_sq")

    def _update(self, group: ParamGroup, run: Run) -> None:
        m, v = run.state
        native.adam(run.param, run.grad, m, v, group.hyper, run.step)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as ``torch.optim.AdamW``.

    First p = p - lr·weight_decay·p, then Adam's update without weight decay.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the denominator.
        weight_decay: decay of the parameters.
    """

    _name = "adamw"
    _constants = (1.0,)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay)
