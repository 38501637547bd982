"""Elementwise functions of one operand: arithmetic, rounding, exponentials, and the first activations.

Integers become float32 where the function is not closed over them. ReLU, tanh, sigmoid, exp and sqrt are differentiated from
their output, GELU and SiLU from their input. More activations are in `quernel.ops.activation`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from quernel import _core
from quernel.autograd import attach
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING
from quernel.ops.op import op
from quernel.ops.shapes import same, same_floating
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from quernel.ops.create import TensorLike


def floating(x: TensorLike) -> Tensor:
    """The operand as a tensor of floats; integers become float32."""
    a = as_tensor(x)
    return a if a._t.dtype in FLOATING else Tensor(_core.cast(a._t, "float32"))


@op(shape=same, direct=True)
def neg(x: TensorLike) -> Tensor:
    """Returns ``-x``."""
    a = as_tensor(x)
    return attach(_core.neg(a._t), (a,), lambda g: (neg(g),))


@op(shape=same, direct=True)
def abs(x: TensorLike) -> Tensor:
    """Returns ``|x|``; the gradient at 0 is 0."""
    a = as_tensor(x)
    return attach(_core.abs(a._t), (a,), lambda g, a: (Tensor(_core.abs_grad(a._t, g._t)),), (a._t,))


@op(shape=same, direct=True)
def square(x: TensorLike) -> Tensor:
    """Returns ``x * x``."""
    a = as_tensor(x)
    return attach(_core.square(a._t), (a,), lambda g, a: (a * g * 2.0,), (a._t,))


def _flat(g: Tensor) -> tuple[Tensor]:
    """The gradient of a function that is constant between its jumps."""
    return (Tensor(_core.full(g._t.shape, 0.0, g._t.dtype, g._t.device)),)


@op(shape=same, direct=True)
def sign(x: TensorLike) -> Tensor:
    """Returns -1, 0 or 1, the sign of each element; NaN stays. Its gradient is 0."""
    a = as_tensor(x)
    return attach(_core.sign(a._t), (a,), _flat)


def _rounded(kernel: Callable[[_core.Tensor], _core.Tensor], x: TensorLike) -> Tensor:
    a = as_tensor(x)
    return attach(kernel(a._t), (a,), _flat) if a._t.dtype in FLOATING else a


@op(shape=same, direct=True)
def floor(x: TensorLike) -> Tensor:
    """Returns the largest whole number that is not above each element; integers stay. Its gradient is 0."""
    return _rounded(_core.floor, x)


@op(shape=same, direct=True)
def ceil(x: TensorLike) -> Tensor:
    """Returns the smallest whole number that is not below each element; integers stay. Its gradient is 0."""
    return _rounded(_core.ceil, x)


@op(shape=same, direct=True)
def round(x: TensorLike) -> Tensor:
    """Returns the nearest whole number, of two the even one; integers stay. Its gradient is 0.

    Example:
        >>> qn.ops.round(qn.tensor([0.5, 1.5, -0.7]))
        tensor([ 0.,  2., -1.], dtype=float32)
    """
    return _rounded(_core.round, x)


@op(shape=same_floating, direct=True)
def reciprocal(x: TensorLike) -> Tensor:
    """Returns ``1 / x``."""
    a = floating(x)
    y = _core.reciprocal(a._t)
    return attach(y, (a,), lambda g, y: (neg(g * square(y)),), (y,))


@op(shape=same_floating, direct=True)
def rsqrt(x: TensorLike) -> Tensor:
    """Returns ``1 / sqrt(x)``; infinite at 0, NaN below."""
    a = floating(x)
    y = _core.rsqrt(a._t)
    return attach(y, (a,), lambda g, y: (g * -0.5 * y * square(y),), (y,))


@op(shape=same_floating, direct=True)
def sqrt(x: TensorLike) -> Tensor:
    """Returns the square root; NaN for negative numbers."""
    a = floating(x)
    y = _core.sqrt(a._t)
    return attach(y, (a,), lambda g, y: (g * 0.5 / y,), (y,))


@op(shape=same_floating, direct=True)
def exp(x: TensorLike) -> Tensor:
    """Returns e to the power of ``x``.

    Example:
        >>> qn.ops.exp(qn.tensor([0, 1]))
        tensor([1.       , 2.7182817], dtype=float32)
    """
    a = floating(x)
    y = _core.exp(a._t)
    return attach(y, (a,), lambda g, y: (g * y,), (y,))


@op(shape=same_floating, direct=True)
def expm1(x: TensorLike) -> Tensor:
    """Returns ``exp(x) - 1``, accurate near 0 too."""
    a = floating(x)
    y = _core.expm1(a._t)
    return attach(y, (a,), lambda g, y: (g * (y + 1.0),), (y,))


@op(shape=same_floating, direct=True)
def log1p(x: TensorLike) -> Tensor:
    """Returns ``log(1 + x)``, accurate near 0 too; -inf at -1, NaN below."""
    a = floating(x)
    return attach(_core.log1p(a._t), (a,), lambda g, a: (g / (a + 1.0),), (a._t,))


@op(shape=same_floating, direct=True)
def log(x: TensorLike) -> Tensor:
    """Returns the natural logarithm; -inf at 0, NaN below."""
    a = floating(x)
    return attach(_core.log(a._t), (a,), lambda g, a: (g / a,), (a._t,))


@op(shape=same_floating, direct=True)
def sin(x: TensorLike) -> Tensor:
    """Returns the sine; ``x`` in radians."""
    a = floating(x)
    return attach(_core.sin(a._t), (a,), lambda g, a: (g * cos(a),), (a._t,))


@op(shape=same_floating, direct=True)
def cos(x: TensorLike) -> Tensor:
    """Returns the cosine; ``x`` in radians."""
    a = floating(x)
    return attach(_core.cos(a._t), (a,), lambda g, a: (neg(g * sin(a)),), (a._t,))


@op(shape=same_floating, direct=True)
def erf(x: TensorLike) -> Tensor:
    """Returns the error function, ``2 / sqrt(pi)`` times the integral of ``exp(-t * t)`` from 0 to ``x``."""
    a = floating(x)
    slope = 2 / math.sqrt(math.pi)
    return attach(_core.erf(a._t), (a,), lambda g, a: (g * slope * exp(neg(square(a))),), (a._t,))


@op(shape=same_floating, direct=True)
def tanh(x: TensorLike) -> Tensor:
    """Returns the hyperbolic tangent."""
    a = floating(x)
    y = _core.tanh(a._t)
    return attach(y, (a,), lambda g, y: (Tensor(_core.tanh_grad(y._t, g._t)),), (y,))


@op(shape=same_floating, direct=True)
def sigmoid(x: TensorLike) -> Tensor:
    """Returns ``1 / (1 + exp(-x))``."""
    a = floating(x)
    y = _core.sigmoid(a._t)
    return attach(y, (a,), lambda g, y: (Tensor(_core.sigmoid_grad(y._t, g._t)),), (y,))


@op(shape=same, direct=True)
def relu(x: TensorLike) -> Tensor:
    """Returns ``max(x, 0)``; the gradient at 0 is 0, NaN stays NaN."""
    a = as_tensor(x)
    y = _core.relu(a._t)
    return attach(y, (a,), lambda g, y: (Tensor(_core.relu_grad(y._t, g._t)),), (y,))


@op(shape=same_floating, direct=True)
def gelu(x: TensorLike) -> Tensor:
    """Returns ``x * Phi(x)`` with the normal distribution function Phi (the exact form, by erf).

    Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415.
    """
    a = floating(x)
    return attach(_core.gelu(a._t), (a,), lambda g, a: (Tensor(_core.gelu_grad(a._t, g._t)),), (a._t,))


@op(shape=same_floating, direct=True)
def silu(x: TensorLike) -> Tensor:
    """Returns ``x * sigmoid(x)``, also known as swish."""
    a = floating(x)
    return attach(_core.silu(a._t), (a,), lambda g, a: (Tensor(_core.silu_grad(a._t, g._t)),), (a._t,))
