"""Elementwise ops of two operands, and choosing, limiting and copying elements.

Operands broadcast as in NumPy and promote as in PyTorch. The gradient of an operand that was broadcast is summed over the
dimensions along which it was repeated.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, attach, needs_grad, no_grad, put_on_tape
from quernel.errors import ArgumentError, DTypeError
from quernel.ops.compare import eq, ge, gt, le, logical_and, lt
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING
from quernel.ops.op import Spec, op
from quernel.ops.operands import Operand, cast, computed, promoted, raw, unbroadcast, wanted
from quernel.ops.shapes import (
    arithmetic,
    broadcast_shapes,
    is_number,
    same,
    spec_of,
)
from quernel.ops.unary import log, neg
from quernel.runtime import check_device
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


@op(shape=arithmetic("add"), direct=True)
def add(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x + other``.

    Example:
        >>> qn.ops.add(qn.tensor([1, 2]), 0.5)
        tensor([1.5, 2.5], dtype=float32)
    """
    out, a, b = computed(_core.add, x, other)
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = wanted(a), wanted(b)

    def backward(g: Tensor) -> Gradients:
        return None if sa is None else unbroadcast(g, sa), None if sb is None else unbroadcast(g, sb)

    return put_on_tape(out, (a, b), backward)


@op(shape=arithmetic("sub"), direct=True)
def sub(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x - other``."""
    out, a, b = computed(_core.sub, x, other)
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = wanted(a), wanted(b)

    def backward(g: Tensor) -> Gradients:
        return None if sa is None else unbroadcast(g, sa), None if sb is None else unbroadcast(neg(g), sb)

    return put_on_tape(out, (a, b), backward)


@op(shape=arithmetic("mul"), direct=True)
def mul(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x * other``, element by element."""
    out, a, b = computed(_core.mul, x, other)
    if not needs_grad(a, b):
        return Tensor(out)
    ta, tb = raw(a), raw(b)
    sa, sb = wanted(a), wanted(b)

    def backward(g: Tensor, a: Any, b: Any) -> Gradients:
        return (
            None if sa is None else unbroadcast(mul(g, b), sa),
            None if sb is None else unbroadcast(mul(g, a), sb),
        )

    return put_on_tape(out, (a, b), backward, (None if sb is None else ta, None if sa is None else tb))


def _true_division(x: Any, other: Any) -> Spec:
    shape, dtype = arithmetic("div")(x, other)
    return Spec(shape, dtype if dtype in FLOATING else "float32")


@op(shape=_true_division)
def div(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns the quotient ``x / other``; that of integers is float32.

    Example:
        >>> qn.ops.div(qn.tensor([1, 3]), 2)
        tensor([0.5, 1.5], dtype=float32)
    """
    a, b = promoted(x, other, floating=True)
    tb = raw(b)
    out = _core.div(raw(a), tb)
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = wanted(a), wanted(b)

    def backward(g: Tensor, b: Operand, out: Any) -> Gradients:
        ga = div(g, b)
        return (
            None if sa is None else unbroadcast(ga, sa),
            None if sb is None else unbroadcast(neg(mul(ga, out)), sb),
        )

    return put_on_tape(out, (a, b), backward, (tb, None if sb is None else out))


@op(shape=arithmetic("floor_divide"), direct=True)
def floor_divide(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns the quotient rounded down, ``x // other``, in the operands' dtype. It has no gradient.

    An integer divided by 0 gives 0, as in NumPy.

    Example:
        >>> qn.ops.floor_divide(qn.tensor([7, -7]), 2)
        tensor([ 3, -4], dtype=int64)
    """
    a, b = promoted(x, other)
    return Tensor(_core.floor_divide(raw(a), raw(b)))


@op(shape=arithmetic("remainder"), direct=True)
def remainder(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x - other * floor(x / other)``, that is ``x % other``: it has the sign of ``other``.

    An integer divided by 0 leaves 0, as in NumPy, a float NaN.

    Example:
        >>> qn.ops.remainder(qn.tensor([7.5, -7.5]), 2)
        tensor([1.5, 0.5], dtype=float32)
    """
    a, b = promoted(x, other)
    ta, tb = raw(a), raw(b)
    out = _core.remainder(ta, tb)
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = wanted(a), wanted(b)

    def backward(g: Tensor, a: Any, b: Any) -> Gradients:
        return (
            None if sa is None else unbroadcast(g, sa),
            None if sb is None else unbroadcast(neg(mul(g, floor_divide(a, b))), sb),
        )

    return put_on_tape(out, (a, b), backward, (None if sb is None else ta, None if sb is None else tb))


def _pow_rule(x: Any, exponent: Any) -> Spec:
    return arithmetic("pow")(x, exponent)


@op(shape=_pow_rule, direct=True)
def pow(x: TensorLike, exponent: TensorLike) -> Tensor:
    """Returns ``x ** exponent``.

    The gradient with respect to the exponent is 0 where ``x`` is 0 and the exponent is not negative, as in PyTorch.

    Raises:
        ArgumentError: An integer tensor with a negative whole exponent; use floats.
    """
    a, b = promoted(x, exponent)
    if not isinstance(b, Tensor) and b < 0 and spec_of(a).dtype not in FLOATING:
        raise ArgumentError(
            f"[pow] an integer tensor cannot have the exponent {b:g}; use x.astype('float32')"
        )
    ta, tb = raw(a), raw(b)
    out = _core.pow(ta, tb)
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = wanted(a), wanted(b)

    def backward(g: Tensor, a: Operand, b: Operand, out: Any) -> Gradients:
        ga = gb = None
        if sa is not None:
            slope = (
                where(eq(b, 0.0), 0.0, mul(b, pow(a, sub(b, 1.0))))
                if isinstance(b, Tensor)
                else _power_slope(a, b)
            )
            ga = unbroadcast(mul(g, slope), sa)
        if sb is not None:
            gb = unbroadcast(mul(g, _exponent_slope(a, b, out)), sb)
        return ga, gb

    return put_on_tape(out, (a, b), backward, (ta, tb, None if sb is None else out))


def _power_slope(a: Operand, b: float) -> Tensor:
    """The derivative of a ** b for a number b."""
    if b == 0.0:
        spec = spec_of(a)
        return Tensor(_core.full(spec.shape, 0.0, spec.dtype))  # of an infinite or missing number too
    return mul(pow(a, b - 1.0), b)


def _exponent_slope(a: Operand, b: Operand, out: Tensor) -> Tensor:
    """The derivative of a ** b for b; 0 where 0 ** b is constant."""
    if isinstance(a, Tensor):
        return where(logical_and(eq(a, 0.0), ge(b, 0.0)), 0.0, mul(out, log(a)))
    if a == 0:
        return where(ge(b, 0.0), 0.0, mul(out, -math.inf))
    return mul(out, math.log(a) if a > 0 else math.nan)


@op(shape=arithmetic("maximum"), direct=True)
def maximum(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns the larger of the two, element by element; NaN if either is. Ties share the gradient."""
    return _extremum(_core.maximum, lt, x, other)


@op(shape=arithmetic("minimum"), direct=True)
def minimum(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns the smaller of the two, element by element; NaN if either is. Ties share the gradient."""
    return _extremum(_core.minimum, gt, x, other)


def _extremum(kernel: Any, loses: Any, x: TensorLike, other: TensorLike) -> Tensor:
    out, a, b = computed(kernel, x, other)
    if not needs_grad(a, b):
        return Tensor(out)
    ta, tb = raw(a), raw(b)
    sa, sb = wanted(a), wanted(b)

    def backward(g: Tensor, a: Operand, b: Operand) -> Gradients:
        shared = where(eq(a, b), mul(g, 0.5), g)
        return (
            None if sa is None else unbroadcast(where(loses(a, b), 0.0, shared), sa),
            None if sb is None else unbroadcast(where(loses(b, a), 0.0, shared), sb),
        )

    return put_on_tape(out, (a, b), backward, (ta, tb))


# Choosing, limiting, converting.


def _where_rule(condition: Any, x: Any, other: Any) -> Spec:
    spec = spec_of(condition)
    if spec.dtype != "bool":
        raise DTypeError(f"[where] condition must be bool, got {spec.dtype}; write condition != 0")
    shape, dtype = arithmetic("where")(x, other)
    return Spec(broadcast_shapes("where", spec.shape, shape), dtype)


@op(shape=_where_rule)
def where(condition: TensorLike, x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x`` where the condition holds, else ``other``; all three broadcast.

    Example:
        >>> qn.ops.where(qn.tensor([True, False]), 1.0, qn.tensor([5.0, 6.0]))
        tensor([1., 6.], dtype=float32)
    """
    chosen = as_tensor(condition)
    if chosen.dtype != "bool":
        _where_rule(condition, x, other)
    a, b = promoted(x, other)
    out = _core.where(chosen._t, raw(a), raw(b))
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = wanted(a), wanted(b)

    def backward(g: Tensor, chosen: Tensor) -> Gradients:
        return (
            None if sa is None else unbroadcast(where(chosen, g, 0.0), sa),
            None if sb is None else unbroadcast(where(chosen, 0.0, g), sb),
        )

    return put_on_tape(out, (a, b), backward, (chosen._t,))


def prelu(x: TensorLike, weight: TensorLike) -> Tensor:
    """Returns ``x`` where it is positive, else ``weight * x``, with a slope that can be learned.

    He et al., "Delving Deep into Rectifiers", arXiv 1502.01852.

    Args:
        x: (..., C).
        weight: (1,) or (C,).
    """
    return where(gt(x, 0.0), x, mul(x, weight))


def _clip_rule(x: Any, min: Any = None, max: Any = None) -> Spec:
    spec = spec_of(x)
    for bound in (min, max):
        if bound is not None:
            spec = arithmetic("clip")(x if spec.shape == spec_of(x).shape else Tensor.traced(spec), bound)
    return spec


@op(shape=_clip_rule)
def clip(x: TensorLike, min: TensorLike | None = None, max: TensorLike | None = None) -> Tensor:
    """Limits the elements to ``[min, max]``; None means no limit. ``max`` wins where ``min > max``.

    The gradient passes where ``min <= x <= max``.

    Example:
        >>> qn.ops.clip(qn.tensor([-2.0, 0.5, 7.0]), 0.0, 1.0)
        tensor([0. , 0.5, 1. ], dtype=float32)
    """
    a = as_tensor(x)
    if needs_grad(min, max):  # bounds that are learned
        a = a if min is None else maximum(a, min)
        return a if max is None else minimum(a, max)
    with no_grad():
        out = a if min is None else maximum(a, min)
        out = out if max is None else minimum(out, max)

    def backward(g: Tensor, a: Tensor, lo: Any, hi: Any) -> Gradients:
        g = g if lo is None else where(ge(a, lo), g, 0.0)
        g = g if hi is None else where(le(a, hi), g, 0.0)
        return (unbroadcast(cast(g, a.dtype), a.shape),)

    bounds = [None if b is None else b if is_number(b) else as_tensor(b)._t for b in (min, max)]
    return attach(out._t, (a,), backward, (a._t, *bounds))


@op(shape=same)
def clone(x: TensorLike) -> Tensor:
    """Returns a copy in memory of its own; gradients pass through."""
    a = as_tensor(x)
    return attach(_core.copy(a._t), (a,), lambda g: (g,))


def _to_device_rule(x: Operand, device: str) -> Spec:  # noqa: ARG001
    return same(x)


@op(shape=_to_device_rule)
def to_device(x: TensorLike, device: str) -> Tensor:
    """Returns ``x`` on a device, gradients flow back; a tensor that is there already as it is.

    Args:
        x: A tensor, or data for one.
        device: "cpu", "cuda" or "auto".

    Raises:
        DeviceError: The device is unknown or cannot be used, with the reason.
    """
    a, place = as_tensor(x), check_device(device)
    if a.device == place:
        return a
    home = a.device
    return attach(_core.to_device(a._t, place), (a,), lambda g: (Tensor(_core.to_device(g._t, home)),))
