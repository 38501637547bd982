"""The optimizers, simplest first.

Each is PyTorch's of the same name, hyper-parameters and defaults included, and Lion that of its paper. In the formulas
p is a parameter, g its gradient, t the number of its updates so far, this one counted. Two penalties are common to all:
g = grad + weight_decay·p + l1·sign(p), that is, the gradient of loss + weight_decay/2·|p|² + l1·|p|; AdamW and Lion
decouple the first: they scale p by 1 - lr·weight_decay instead (Loshchilov and Hutter 2019).

A table whose gradient comes by rows (`ops.embedding` and `ops.embedding_bag` with ``sparse=True``) is updated lazily by
Adam, AdamW, SparseAdam and SGD without momentum: rows that have a gradient as above, penalties included, all others and
what is kept for them not at all. A step then costs what those rows cost; t counts the table's updates.

Gradient descent on the whole training set is SGD whose batch is the whole set: ``fit(..., batch_size=None)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from quernel.errors import ArgumentError
from quernel.optim.group import Check, ParamGroup, at_least_zero, below_one, flag, two_below_one
from quernel.optim.optimizer import Hyper, Optimizer, Params

if TYPE_CHECKING:
    from quernel.tensor import Tensor


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum or without.

    buf = momentum·buf + (1 - dampening)·g, and g itself at the first step; p = p - lr·buf, or with Nesterov's
    momentum p = p - lr·(g + momentum·buf) (Sutskever et al. 2013).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: 0 keeps no buffer.
        dampening: subtracted from the weight of the new gradient.
        weight_decay: L2 penalty.
        nesterov: look ahead; needs momentum > 0 and no dampening.
        l1: L1 penalty.

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
    _checks: ClassVar[dict[str, Check]] = {
        "momentum": at_least_zero,
        "dampening": at_least_zero,
        "nesterov": flag,
    }
    _states = ("momentum_buffer",)

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
        l1: float = 0.0,
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
            l1=l1,
        )

    def _state_names(self, group: ParamGroup) -> tuple[str, ...]:
        return self._states if group.peek("momentum") else ()

    def _blocks_rows(self, group: ParamGroup) -> bool:
        return bool(group.peek("momentum"))


class Lion(Optimizer):
    """Steps of one size, in the direction of the sign of a moving average (Chen et al. 2023, arXiv 2302.06675).

    p = p·(1 - lr·weight_decay) - lr·sign(beta1·m + (1 - beta1)·g), then m = beta2·m + (1 - beta2)·g.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, three to ten times smaller than Adam's.
        betas: weights of the average in the direction, and in its own next value.
        weight_decay: decay of the parameters.
        l1: L1 penalty.

    Example:
        >>> w = qn.tensor([1.0, -3.0], requires_grad=True)
        >>> opt = optim.Lion([w], lr=0.25)
        >>> (w * w).sum().backward()
        >>> opt.step()
        >>> w.tolist()
        [0.75, -2.75]
    """

    _name = "lion"
    _checks: ClassVar[dict[str, Check]] = {"betas": two_below_one}
    _states = ("exp_avg",)

    betas = Hyper[tuple[float, float]]("Weights of the average, of all groups.")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        l1: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, l1=l1)


class Adagrad(Optimizer):
    """Steps that shrink with the gradients seen so far (Duchi, Hazan and Singer 2011).

    s = s + g²; p = p - lr / (1 + (t - 1)·lr_decay) · g / (sqrt(s) + eps).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        lr_decay: how fast the learning rate falls.
        weight_decay: L2 penalty.
        initial_accumulator_value: s before the first step.
        eps: added to the denominator.
        l1: L1 penalty.
    """

    _name = "adagrad"
    _checks: ClassVar[dict[str, Check]] = {
        "lr_decay": at_least_zero,
        "initial_accumulator_value": at_least_zero,
        "eps": at_least_zero,
    }
    _states = ("sum",)

    lr_decay = Hyper[float]("Decay of the learning rate, of all groups.")
    eps = Hyper[float]("Added to the denominator, of all groups.")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        l1: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            l1=l1,
        )


class RMSprop(Optimizer):
    """Gradients divided by the root of their mean square (Hinton, "Neural Networks for Machine Learning", lecture 6e).

    v = alpha·v + (1 - alpha)·g²; u = g / (sqrt(v) + eps), or if centered g / (sqrt(v - m²) + eps) with
    m = alpha·m + (1 - alpha)·g; p = p - lr·u, with momentum p - lr·buf where buf = momentum·buf + u.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        alpha: decay of the averages.
        eps: added to the denominator.
        weight_decay: L2 penalty.
        momentum: 0 keeps no buffer.
        centered: divide by the standard deviation instead.
        l1: L1 penalty.
    """

    _name = "rmsprop"
    _checks: ClassVar[dict[str, Check]] = {
        "alpha": below_one,
        "eps": at_least_zero,
        "momentum": at_least_zero,
    }
    _states = ("square_avg", "momentum_buffer", "grad_avg")

    alpha = Hyper[float]("Decay of the averages, of all groups.")
    eps = Hyper[float]("Added to the denominator, of all groups.")
    momentum = Hyper[float]("Momentum, of all groups.")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        l1: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            l1=l1,
        )

    def _state_names(self, group: ParamGroup) -> tuple[str, ...]:
        absent = {"momentum_buffer": not group.peek("momentum"), "grad_avg": not group.peek("centered")}
        return tuple([name for name in self._states if not absent.get(name, False)])


class Adam(Optimizer):
    """Momentum and RMSprop together, without their bias towards zero (Kingma and Ba 2015).

    m = beta1·m + (1 - beta1)·g; v = beta2·v + (1 - beta2)·g²;
    p = p - lr / (1 - beta1^t) · m / (sqrt(v / (1 - beta2^t)) + eps).

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the denominator.
        weight_decay: L2 penalty.
        l1: L1 penalty.

    Example:
        >>> w = qn.tensor([1.0], requires_grad=True)
        >>> opt = optim.Adam([w], lr=0.1)
        >>> (w * w).sum().backward()
        >>> opt.step()
        >>> round(w.item(), 4)
        0.9
    """

    _name = "adam"
    _checks: ClassVar[dict[str, Check]] = {"betas": two_below_one, "eps": at_least_zero}
    _constants = (0.0,)  # weight decay is not decoupled
    _states = ("exp_avg", "exp_avg_sq")

    betas = Hyper[tuple[float, float]]("Decay of the averages of gradients and of squares, of all groups.")
    eps = Hyper[float]("Added to the denominator, of all groups.")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        l1: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, l1=l1)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    First p = p - lr·weight_decay·p, then Adam's update without weight decay.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the denominator.
        weight_decay: decay of the parameters.
        l1: L1 penalty.
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
        l1: float = 0.0,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, l1)


class SparseAdam(Adam):
    """Adam for tables whose gradient comes by rows: rows without one are left alone, and so is what is kept for them.

    m and v of those rows as Adam's, t the number of steps of the table, and as in PyTorch
    p = p - lr·sqrt(1 - beta2^t) / (1 - beta1^t) · m / (sqrt(v) + eps).

    Adam does the same, up to what eps is added to, and takes dense gradients besides: a net that has both needs one
    optimizer.

    Args:
        params: parameters, or groups of them, that are looked up with ``sparse=True``.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the denominator.

    Raises:
        ArgumentError: at a step, a dense gradient.

    Example:
        >>> table = nn.Embedding(1000, 2, sparse=True)
        >>> opt = optim.SparseAdam(table.parameters(), lr=0.5)
        >>> before = table.weight.numpy().copy()
        >>> table(np.array([7, 3, 7])).sum().backward()
        >>> opt.step()
        >>> np.flatnonzero((table.weight.numpy() != before).any(1)).tolist()
        [3, 7]
    """

    _name = "sparse_adam"
    _constants = (2.0,)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, lr, betas, eps)

    def _check_kind(self, group: ParamGroup, p: Tensor) -> None:  # noqa: ARG002
        if not p._t.has_row_grad:
            raise ArgumentError(
                f"[{self._name}] a parameter of shape {p.shape} has a dense gradient; look it up with sparse=True, or use "
                "Adam, which takes both"
            )


class NAdam(Optimizer):
    """Adam with Nesterov's momentum (Dozat 2016).

    m and v as Adam's; mu_t = beta1·(1 - 0.96^(t·momentum_decay) / 2), M_t = mu_1·…·mu_t;
    p = p - lr·((1 - mu_t) / (1 - M_t) · g + mu_(t+1) / (1 - M_(t+1)) · m) / (sqrt(v / (1 - beta2^t)) + eps).

    M_t is computed from today's beta1 and momentum_decay, also if they had other values before.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: decay of the two averages.
        eps: added to the denominator.
        weight_decay: L2 penalty.
        momentum_decay: how fast mu_t approaches beta1.
        l1: L1 penalty.
    """

    _name = "nadam"
    _checks: ClassVar[dict[str, Check]] = {
        "betas": two_below_one,
        "eps": at_least_zero,
        "momentum_decay": at_least_zero,
    }
    _states = ("exp_avg", "exp_avg_sq")

    betas = Hyper[tuple[float, float]]("Decay of the averages of gradients and of squares, of all groups.")
    eps = Hyper[float]("Added to the denominator, of all groups.")
    momentum_decay = Hyper[float]("How fast the momentum approaches beta1, of all groups.")

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        l1: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            l1=l1,
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {
    kind._name: kind for kind in (SGD, Lion, Adagrad, RMSprop, Adam, AdamW, SparseAdam, NAdam)
}
