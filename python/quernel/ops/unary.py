"""Elementwise functions of one operand.

Integers become float32 where the function is not closed over them. ReLU, tanh, sigmoid, exp and sqrt are differentiated from
their output, GELU and SiLU from their input.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quernel import _core
from quernel.autograd import attach
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING
from quernel.ops.op import op
from quernel.ops.shapes import same, same_floating
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def _floating(x: TensorLike) -> Tensor:
    a = as_tensor(x)
    return a if a._t.dtype in FLOATING else Tensor(_core.cast(a._t, "float32"))


@op(shape=same)
def neg(x: TensorLike) -> Tensor:
    """Returns ``-x``."""
    a = as_tensor(x)
    return attach(_core.neg(a._t), (a,), lambda g: (neg(g),))


@op(shape=same)
def abs(x: TensorLike) -> Tensor:
    """Returns ``|x|``; the gradient at 0 is 0."""
    a = as_tensor(x)
    return attach(_core.abs(a._t), (a,), lambda g, a: (Tensor(_core.abs_grad(a._t, g._t)),), (a._t,))


@op(shape=same)
def square(x: TensorLike) -> Tensor:
    """Returns ``x * x``."""
    a = as_tensor(x)
    return attach(_core.square(a._t), (a,), lambda g, a: (a * g * 2.0,), (a._t,))


@op(shape=same_floating)
def sqrt(x: TensorLike) -> Tensor:
    """Returns the square root; NaN for negative numbers."""
    a = _floating(x)
    y = _core.sqrt(a._t)
    return attach(y, (a,), lambda g, y: (g * 0.5 / y,), (y,))


@op(shape=same_floating)
def exp(x: TensorLike) -> Tensor:
    """Returns e to the power of ``x``.

    Example:
        >>> qn.ops.exp(qn.tensor([0, 1]))
        tensor([1.       , 2.7182817], dtype=float32)
    """
    a = _floating(x)
    y = _core.exp(a._t)
    return attach(y, (a,), lambda g, y: (g * y,), (y,))


@op(shape=same_floating)
def log(x: TensorLike) -> Tensor:
    """Returns the natural logarithm; -inf at 0, NaN below."""
    a = _floating(x)
    return attach(_core.log(a._t), (a,), lambda g, a: (g / a,), (a._t,))


@op(shape=same_floating)
def tanh(x: TensorLike) -> Tensor:
    """Returns the hyperbolic tangent."""
    a = _floating(x)
    y = _core.tanh(a._t)
    return attach(y, (a,), lambda g, y: (Tensor(_core.tanh_grad(y._t, g._t)),), (y,))


@op(shape=same_floating)
def sigmoid(x: TensorLike) -> Tensor:
    """Returns ``1 / (1 + exp(-x))``."""
    a = _floating(x)
    y = _core.sigmoid(a._t)
    return attach(y, (a,), lambda g, y: (Tensor(_core.sigmoid_grad(y._t, g._t)),), (y,))


@op(shape=same)
def relu(x: TensorLike) -> Tensor:
    """Returns ``max(x, 0)``; the gradient at 0 is 0, NaN stays NaN."""
    a = as_tensor(x)
    y = _core.relu(a._t)
    return attach(y, (a,), lambda g, y: (Tensor(_core.relu_grad(y._t, g._t)),), (y,))


@op(shape=same_floating)
def gelu(x: TensorLike) -> Tensor:
    """Returns ``x * Phi(x)`` with the normal distribution function Phi (the exact form, by erf).

    Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv 1606.08415.
    """
    a = _floating(x)
    return attach(_core.gelu(a._t), (a,), lambda g, a: (Tensor(_core.gelu_grad(a._t, g._t)),), (a._t,))


@op(shape=same_floating)
def silu(x: TensorLike) -> Tensor:
    """Returns ``x * sigmoid(x)``, also known as swish."""
    a = _floating(x)
    return attach(_core.silu(a._t), (a,), lambda g, a: (Tensor(_core.silu_grad(a._t, g._t)),), (a._t,))
