"""Reductions over any set of dimensions."""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, attach
from quernel.errors import ArgumentError, ShapeError
from quernel.ops.compare import eq, logical_not
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING
from quernel.ops.elementwise import div, mul, sub, where
from quernel.ops.op import Spec, op
from quernel.ops.operands import cast
from quernel.ops.shapes import check_floating, normalize_axes, normalize_axis, spec_of
from quernel.ops.unary import abs, exp, neg
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike

Dims = int | Sequence[int] | None
Shape = tuple[int, ...]


def _shapes(op: str, shape: Shape, dim: Dims, keepdim: bool) -> tuple[Shape, Shape, Shape]:
    """The axes, the shape with reduced dimensions of size 1, and the result's shape."""
    axes = normalize_axes(op, dim, len(shape))
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    return axes, kept, kept if keepdim else tuple(n for i, n in enumerate(shape) if i not in axes)


def _rule(name: str, check: Callable[[Spec, Shape], str]) -> Callable[..., Spec]:
    def rule(x: Any, dim: Dims = None, keepdim: bool = False) -> Spec:
        spec = spec_of(x)
        axes, _, out = _shapes(name, spec.shape, dim, keepdim)
        return Spec(out, check(spec, axes))

    return rule


def _sum_dtype(x: Spec, axes: Shape) -> str:  # noqa: ARG001
    return x.dtype if x.dtype in FLOATING else "int64"


def _mean_dtype(x: Spec, axes: Shape) -> str:  # noqa: ARG001
    check_floating("mean", "x", x.dtype)
    return x.dtype


def _extremum_dtype(name: str) -> Callable[[Spec, Shape], str]:
    def check(x: Spec, axes: Shape) -> str:
        if 0 in [x.shape[i] for i in axes]:
            raise ShapeError(f"[{name}] there is no {name} of no elements (x: {x.shape}, axes: {axes})")
        return x.dtype

    return check


@op(shape=_rule("sum", _sum_dtype))
def sum(x: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Returns the sum over the given dimensions, over all by default; that of integers and booleans is int64.

    Args:
        x: Any tensor.
        dim: One dimension, several, or None for all.
        keepdim: Whether the reduced dimensions stay, with size 1.

    Example:
        >>> qn.ops.sum(qn.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=0)
        tensor([4., 6.], dtype=float32)
    """
    a = as_tensor(x)
    before = a._t.shape
    axes, kept, out = _shapes("sum", before, dim, keepdim)

    def backward(g: Tensor) -> Gradients:
        return (Tensor(_core.broadcast_to(g._t.reshape(kept), before)),)

    return attach(_core.sum(a._t, axes).reshape(out), (a,), backward)


@op(shape=_rule("mean", _mean_dtype))
def mean(x: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Returns the mean over the given dimensions, over all by default; NaN where there are no elements.

    Raises:
        DTypeError: ``x`` is not floating.
    """
    a = as_tensor(x)
    check_floating("mean", "x", a._t.dtype)
    before = a._t.shape
    axes, kept, out = _shapes("mean", before, dim, keepdim)
    count = math.prod(before[i] for i in axes)

    def backward(g: Tensor) -> Gradients:
        share = _core.div(g._t, float(count)).reshape(kept)
        return (Tensor(_core.broadcast_to(share, before)),)

    return attach(_core.mean(a._t, axes).reshape(out), (a,), backward)


@op(shape=_rule("max", _extremum_dtype("max")))
def max(x: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Returns the largest element over the given dimensions, over all by default; NaN if there is one.

    Only the values, as PyTorch's ``amax``: `argmax` tells where, and `topk` both. As there, equal largest elements share
    the gradient evenly.

    Raises:
        ShapeError: There are no elements to choose from.
    """
    a = as_tensor(x)
    before = a._t.shape
    axes, kept, out = _shapes("max", before, dim, keepdim)
    _extremum_dtype("max")(spec_of(a), axes)
    y = _core.max(a._t, axes).reshape(kept)

    def backward(g: Tensor, a: Tensor, y: Tensor) -> Gradients:
        winners = cast(eq(a, y), a.dtype)
        share = div(Tensor(g._t.reshape(kept)), sum(winners, axes, keepdim=True))
        return (mul(winners, share),)

    return attach(y.reshape(out), (a,), backward, (a._t, y))


@op(shape=_rule("min", _extremum_dtype("min")))
def min(x: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Returns the smallest element over the given dimensions; otherwise as `max`."""
    a = as_tensor(x)
    _extremum_dtype("min")(spec_of(a), _shapes("min", a._t.shape, dim, keepdim)[0])
    if a._t.dtype in FLOATING:
        return neg(max(neg(a), dim, keepdim))
    # Not -x, which the least integer does not have: these turn the order around and map each range onto itself.
    if a._t.dtype == "bool":
        return logical_not(max(logical_not(a), dim, keepdim))
    mirror = 255 if a._t.dtype == "uint8" else -1
    return sub(mirror, max(sub(mirror, a), dim, keepdim))


@op(shape=_rule("prod", _sum_dtype))
def prod(x: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Returns the product over the given dimensions, over all by default; that of integers and booleans is int64.

    Example:
        >>> qn.ops.prod(qn.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=1)
        tensor([ 2., 12.], dtype=float32)
    """
    a = as_tensor(x)
    axes, kept, out = _shapes("prod", a._t.shape, dim, keepdim)
    y = _core.prod(a._t, axes).reshape(kept)

    def backward(g: Tensor, a: Tensor) -> Gradients:
        # The product of all others: of those that are not 0, where no other is.
        zero = eq(a, 0.0)
        zeros = sum(cast(zero, a.dtype), axes, keepdim=True)
        others = prod(where(zero, 1.0, a), axes, keepdim=True)
        left = sub(zeros, cast(zero, a.dtype))
        slope = where(eq(left, 0.0), div(others, where(zero, 1.0, a)), 0.0)
        return (mul(slope, Tensor(g._t.reshape(kept))),)

    return attach(y.reshape(out), (a,), backward, (a._t,))


def _moments(name: str) -> Callable[..., Spec]:
    def rule(x: Any, dim: Dims = None, correction: float = 1, keepdim: bool = False) -> Spec:  # noqa: ARG001
        spec = spec_of(x)
        check_floating(name, "x", spec.dtype)
        return Spec(_shapes(name, spec.shape, dim, keepdim)[2], spec.dtype)

    return rule


def _variance(
    name: str, a: Tensor, dim: Dims, correction: float, keepdim: bool
) -> tuple[_core.Tensor, _core.Tensor, float, Shape]:
    """The variance with reduced dimensions of size 1, the deviations from the mean, the divisor, the result's shape."""
    check_floating(name, "x", a._t.dtype)
    axes, kept, out = _shapes(name, a._t.shape, dim, keepdim)
    divisor = builtins.max(0.0, math.prod(a._t.shape[i] for i in axes) - float(correction))
    deviations = _core.sub(a._t, _core.mean(a._t, axes).reshape(kept))
    total = _core.sum(_core.square(deviations), axes).reshape(kept)
    return _core.div(total, divisor), deviations, divisor, out


@op(shape=_moments("var"))
def var(x: TensorLike, dim: Dims = None, correction: float = 1, keepdim: bool = False) -> Tensor:
    """Returns the variance: the sum of squared deviations from the mean, divided by ``n - correction``.

    Computed in two passes, mean first, so that it is accurate where the mean is large.

    Args:
        x: A floating tensor.
        dim: One dimension, several, or None for all.
        correction: 1 for the estimate from a sample (Bessel's), 0 for the variance of just these numbers. NaN or inf
            where it leaves nothing to divide by.
        keepdim: Whether the reduced dimensions stay, with size 1.

    Example:
        >>> qn.ops.var(qn.tensor([1.0, 2.0, 3.0, 4.0]), correction=0)
        tensor(1.25, dtype=float32)
    """
    a = as_tensor(x)
    y, deviations, divisor, out = _variance("var", a, dim, correction, keepdim)
    kept = y.shape

    def backward(g: Tensor, deviations: Tensor) -> Gradients:
        share = _core.mul(_core.div(g._t, divisor), 2.0).reshape(kept)
        return (mul(deviations, Tensor(share)),)

    return attach(y.reshape(out), (a,), backward, (deviations,))


@op(shape=_moments("std"))
def std(x: TensorLike, dim: Dims = None, correction: float = 1, keepdim: bool = False) -> Tensor:
    """Returns the standard deviation, the square root of `var`; its gradient is 0 where all elements are equal."""
    a = as_tensor(x)
    variance, deviations, divisor, out = _variance("std", a, dim, correction, keepdim)
    y = _core.sqrt(variance)
    kept = y.shape

    def backward(g: Tensor, deviations: Tensor, y: Tensor) -> Gradients:
        share = div(div(Tensor(g._t.reshape(kept)), divisor), where(eq(y, 0.0), 1.0, y))
        return (mul(deviations, share),)

    return attach(y.reshape(out), (a,), backward, (deviations, y))


def _bool_dtype(x: Spec, axes: Shape) -> str:  # noqa: ARG001
    return "bool"


@op(shape=_rule("any", _bool_dtype))
def any(x: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Returns whether any element is true over the given dimensions; numbers other than 0 are, NaN too.

    Example:
        >>> qn.ops.any(qn.tensor([[0, 1], [0, 0]]), dim=1)
        tensor([ True, False], dtype=bool)
    """
    a = cast(as_tensor(x), "bool")
    axes, _, out = _shapes("any", a._t.shape, dim, keepdim)
    if 0 in [a._t.shape[i] for i in axes]:
        return Tensor(_core.full(out, 0.0, "bool", a._t.device))
    return Tensor(_core.max(a._t, axes).reshape(out))


@op(shape=_rule("all", _bool_dtype))
def all(x: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Returns whether all elements are true over the given dimensions, as they are where there are none."""
    return logical_not(any(logical_not(x), dim, keepdim))


def _floating_dtype(name: str) -> Callable[[Spec, Shape], str]:
    def check(x: Spec, axes: Shape) -> str:  # noqa: ARG001
        check_floating(name, "x", x.dtype)
        return x.dtype

    return check


@op(shape=_rule("logsumexp", _floating_dtype("logsumexp")))
def logsumexp(x: TensorLike, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Returns ``log(sum(exp(x)))`` over the given dimensions, computed without overflow; -inf of no elements.

    Example:
        >>> qn.ops.logsumexp(qn.tensor([0.0, 0.0]))
        tensor(0.6931472, dtype=float32)
    """
    a = as_tensor(x)
    check_floating("logsumexp", "x", a._t.dtype)
    axes, kept, out = _shapes("logsumexp", a._t.shape, dim, keepdim)
    if 0 in [a._t.shape[i] for i in axes]:
        y = _core.full(kept, -math.inf, a._t.dtype, a._t.device)
    else:
        top = _core.max(a._t, axes).reshape(kept)
        top = _core.where(_core.eq(_core.abs(top), math.inf), 0.0, top)  # inf - inf would be NaN
        y = _core.add(_core.log(_core.sum(_core.exp(_core.sub(a._t, top)), axes).reshape(kept)), top)

    def backward(g: Tensor, a: Tensor, y: Tensor) -> Gradients:
        return (mul(exp(sub(a, y)), Tensor(g._t.reshape(kept))),)

    return attach(y.reshape(out), (a,), backward, (a._t, y))


def _norm_rule(x: Any, p: float = 2, dim: Dims = None, keepdim: bool = False) -> Spec:
    if p not in (1, 2, math.inf):
        raise ArgumentError(
            f"[norm] p must be 1, 2 or inf, got {p!r}; for others write (abs(x) ** p).sum() ** (1 / p)"
        )
    spec: Spec = _rule("norm", _floating_dtype("norm"))(x, dim, keepdim)
    return spec


@op(shape=_norm_rule)
def norm(x: TensorLike, p: float = 2, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Returns the vector norm over the given dimensions, over all by default.

    Args:
        x: A floating tensor.
        p: 1 for ``sum(|x|)``, 2 for ``sqrt(sum(x * x))``, `math.inf` for ``max(|x|)``. The gradient of the second is 0
            where the norm is 0; the third's goes evenly to all largest elements.
        dim: One dimension, several, or None for all.
        keepdim: Whether the reduced dimensions stay, with size 1.

    Example:
        >>> qn.ops.norm(qn.tensor([3.0, -4.0]))
        tensor(5., dtype=float32)
    """
    a = as_tensor(x)
    _norm_rule(a, p, dim, keepdim)
    axes, kept, out = _shapes("norm", a._t.shape, dim, keepdim)
    if p == 1:
        return sum(abs(a), dim, keepdim)
    if p != 2:
        return max(abs(a), dim, keepdim)
    y = _core.sqrt(_core.sum(_core.square(a._t), axes)).reshape(kept)

    def backward(g: Tensor, a: Tensor, y: Tensor) -> Gradients:
        share = div(Tensor(g._t.reshape(kept)), where(eq(y, 0.0), 1.0, y))
        return (mul(a, share),)

    return attach(y.reshape(out), (a,), backward, (a._t, y))


def _cumsum_rule(x: Any, dim: int) -> Spec:
    spec = spec_of(x)
    normalize_axis("cumsum", dim, builtins.max(len(spec.shape), 1))
    return Spec(spec.shape, _sum_dtype(spec, ()))


@op(shape=_cumsum_rule)
def cumsum(x: TensorLike, dim: int) -> Tensor:
    """Returns the running sums along a dimension; those of integers and booleans are int64.

    Example:
        >>> qn.ops.cumsum(qn.tensor([1, 2, 3]), dim=0)
        tensor([1, 3, 6], dtype=int64)
    """
    a = as_tensor(x)
    at = normalize_axis("cumsum", dim, builtins.max(a.ndim, 1))
    return attach(_core.cumsum(a._t, at, False), (a,), lambda g: (Tensor(_core.cumsum(g._t, at, True)),))
