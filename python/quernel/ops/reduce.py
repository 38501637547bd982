"""Reductions over any set of dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, attach
from quernel.errors import ShapeError
from quernel.ops.compare import eq, logical_not
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING
from quernel.ops.elementwise import div, mul, sub
from quernel.ops.op import Spec, op
from quernel.ops.operands import cast
from quernel.ops.shapes import check_floating, normalize_axes, spec_of
from quernel.ops.unary import neg
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

    Equal largest elements share the gradient evenly.

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
