"""Activations with PyTorch's names and definitions, and what `linear` and `conv2d` apply in the same pass.

Integers become float32. Where a function bends, its gradient is PyTorch's. ReLU, tanh, sigmoid, GELU and SiLU are in
`quernel.ops.unary`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import attach
from quernel.errors import ArgumentError
from quernel.ops.op import Spec, op
from quernel.ops.shapes import same_floating
from quernel.ops.unary import floating
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


def _from_input(forward: Any, gradient: Any, x: TensorLike, *params: tuple[float, ...]) -> Tensor:
    a = floating(x)
    return attach(
        forward(a._t, *params), (a,), lambda g, a: (Tensor(gradient(a._t, g._t, *params)),), (a._t,)
    )


def _clamp(y: _core.Tensor, a: Tensor, lo: float, hi: float) -> Tensor:
    return attach(y, (a,), lambda g, y: (Tensor(_core.clamp_grad(y._t, g._t, (lo, hi))),), (y,))


@op(shape=same_floating)
def relu6(x: TensorLike) -> Tensor:
    """Returns ``min(max(x, 0), 6)``; the gradient at 0 and 6 is 0, NaN stays NaN."""
    a = floating(x)
    return _clamp(_core.relu6(a._t), a, 0.0, 6.0)


def _hardtanh_rule(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Spec:
    if not min_val < max_val:
        raise ArgumentError(f"[hardtanh] min_val must be less than max_val, got {min_val} and {max_val}")
    return same_floating(x)


@op(shape=_hardtanh_rule)
def hardtanh(x: TensorLike, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """Returns ``min(max(x, min_val), max_val)``; the gradient at both ends is 0.

    Raises:
        ArgumentError: ``min_val`` is not less than ``max_val``.
    """
    a = floating(x)
    _hardtanh_rule(a, min_val, max_val)
    return _clamp(_core.clip(a._t, min_val, max_val), a, min_val, max_val)


@op(shape=same_floating)
def hardsigmoid(x: TensorLike) -> Tensor:
    """Returns ``relu6(x + 3) / 6``."""
    return _from_input(_core.hardsigmoid, _core.hardsigmoid_grad, x)


@op(shape=same_floating)
def hardswish(x: TensorLike) -> Tensor:
    """Returns ``x * relu6(x + 3) / 6`` (0 at -inf).

    Howard et al., "Searching for MobileNetV3", arXiv 1905.02244.

    Example:
        >>> qn.ops.hardswish(qn.tensor([-4.0, 0.0, 1.5, 4.0]))
        tensor([0.   , 0.   , 1.125, 4.   ], dtype=float32)
    """
    return _from_input(_core.hardswish, _core.hardswish_grad, x)


def _leaky_rule(x: Any, negative_slope: float = 0.01) -> Spec:  # noqa: ARG001
    return same_floating(x)


@op(shape=_leaky_rule)
def leaky_relu(x: TensorLike, negative_slope: float = 0.01) -> Tensor:
    """Returns ``x`` where it is positive, else ``negative_slope * x``.

    Example:
        >>> qn.ops.leaky_relu(qn.tensor([-2.0, 3.0]), 0.1)
        tensor([-0.2,  3. ], dtype=float32)
    """
    return _from_input(_core.leaky_relu, _core.leaky_relu_grad, x, (negative_slope,))


def _elu_rule(x: Any, alpha: float = 1.0) -> Spec:  # noqa: ARG001
    return same_floating(x)


@op(shape=_elu_rule)
def elu(x: TensorLike, alpha: float = 1.0) -> Tensor:
    """Returns ``x`` where it is positive, else ``alpha * (exp(x) - 1)``.

    Clevert et al., "Fast and Accurate Deep Network Learning by Exponential Linear Units", arXiv 1511.07289.
    """
    return _from_input(_core.elu, _core.elu_grad, x, (alpha, 1.0, 1.0))


@op(shape=same_floating)
def selu(x: TensorLike) -> Tensor:
    """Returns ``scale * x`` where it is positive, else ``scale * alpha * (exp(x) - 1)``, with scale 1.0507, alpha 1.6733.

    Klambauer et al., "Self-Normalizing Neural Networks", arXiv 1706.02515.
    """
    return _from_input(_core.elu, _core.elu_grad, x, (_SELU_SCALE * _SELU_ALPHA, _SELU_SCALE, 1.0))


def _celu_rule(x: Any, alpha: float = 1.0) -> Spec:
    if alpha == 0:
        raise ArgumentError("[celu] alpha must not be 0")
    return same_floating(x)


@op(shape=_celu_rule)
def celu(x: TensorLike, alpha: float = 1.0) -> Tensor:
    """Returns ``x`` where it is positive, else ``alpha * (exp(x / alpha) - 1)``.

    Barron, "Continuously Differentiable Exponential Linear Units", arXiv 1704.07483.

    Raises:
        ArgumentError: ``alpha`` is 0.
    """
    _celu_rule(x, alpha)
    return _from_input(_core.elu, _core.elu_grad, x, (alpha, 1.0, 1.0 / alpha))


def _softplus_rule(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Spec:  # noqa: ARG001
    if beta == 0:
        raise ArgumentError("[softplus] beta must not be 0")
    return same_floating(x)


@op(shape=_softplus_rule)
def softplus(x: TensorLike, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Returns ``log(1 + exp(beta * x)) / beta``, and ``x`` itself where ``beta * x > threshold``.

    Raises:
        ArgumentError: ``beta`` is 0.
    """
    _softplus_rule(x, beta, threshold)
    return _from_input(_core.softplus, _core.softplus_grad, x, (beta, threshold))


@op(shape=same_floating)
def mish(x: TensorLike) -> Tensor:
    """Returns ``x * tanh(softplus(x))`` (0 at -inf).

    Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", arXiv 1908.08681.
    """
    return _from_input(_core.mish, _core.mish_grad, x)


@op(shape=same_floating)
def logsigmoid(x: TensorLike) -> Tensor:
    """Returns ``log(sigmoid(x))``, computed without overflow."""
    return _from_input(_core.logsigmoid, _core.logsigmoid_grad, x)


@op(shape=same_floating)
def softsign(x: TensorLike) -> Tensor:
    """Returns ``x / (1 + |x|)``."""
    a = floating(x)
    y = _core.softsign(a._t)
    return attach(y, (a,), lambda g, y: (Tensor(_core.softsign_grad(y._t, g._t)),), (y,))


# ---- fused into linear and conv2d ------------------------------------------------------------------------------------


def _relu6_grad(y: _core.Tensor, g: _core.Tensor) -> _core.Tensor:
    return _core.clamp_grad(y, g, (0.0, 6.0))


_Gradient = Callable[[_core.Tensor, _core.Tensor], _core.Tensor]
_FROM_OUTPUT: dict[str, _Gradient] = {
    "relu": _core.relu_grad,
    "tanh": _core.tanh_grad,
    "sigmoid": _core.sigmoid_grad,
    "relu6": _relu6_grad,
}
_FROM_INPUT: dict[str, _Gradient] = {
    "gelu": _core.gelu_grad,
    "silu": _core.silu_grad,
    "hardswish": _core.hardswish_grad,
}

ACTIVATIONS = (*_FROM_OUTPUT, *_FROM_INPUT)


def check_activation(op: str, activation: str | None) -> None:
    """Raises unless there is such an activation."""
    if activation is not None and activation not in ACTIVATIONS:
        raise ArgumentError(
            f"[{op}] unknown activation {activation!r}; there are {', '.join(ACTIVATIONS)} and None"
        )


def needs_input(activation: str | None) -> bool:
    """Whether the gradient needs what went into the activation, not only what came out."""
    return activation in _FROM_INPUT


def saved_for(activation: str | None, y: _core.Tensor, pre: _core.Tensor | None) -> _core.Tensor | None:
    """What to save for `activation_gradient`."""
    return None if activation is None else pre if activation in _FROM_INPUT else y


def activation_gradient(activation: str | None, saved: Tensor | None, g: _core.Tensor) -> _core.Tensor:
    """Turns the gradient of the activation's output into that of its input."""
    if activation is None or saved is None:
        return g
    gradient = _FROM_OUTPUT.get(activation) or _FROM_INPUT[activation]
    return gradient(saved._t, g)
