"""Elementwise ops: arithmetic, functions, comparisons.

Operands broadcast as in NumPy and promote as in PyTorch. The gradient of an operand that was broadcast is summed over the
dimensions along which it was repeated.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.autograd import Gradients, attach, needs_grad, no_grad, put_on_tape
from quernel.errors import ArgumentError, DTypeError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING, dtype_name
from quernel.ops.op import Spec, op
from quernel.ops.shapes import (
    arithmetic,
    broadcast_shapes,
    comparison,
    is_number,
    result_type,
    same,
    spec_of,
)
from quernel.ops.unary import log, neg
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from quernel.ops.create import TensorLike

Operand = Tensor | float


def _promoted(x: TensorLike, other: TensorLike, floating: bool = False) -> tuple[Operand, Operand]:
    """Two operands of one dtype. A Python number stays one, unless both are."""
    if isinstance(x, Tensor):  # the usual cases first
        dtype = x._t.dtype
        if isinstance(other, Tensor):
            if dtype == other._t.dtype and not (floating and dtype not in FLOATING):
                return x, other
        elif dtype in FLOATING and isinstance(other, int | float):
            return x, float(other)
    dtype = result_type(x, other)
    if floating and dtype not in FLOATING:
        dtype = "float32"
    if is_number(other) and not is_number(x):
        return cast(as_tensor(x), dtype), float(other)
    return (float(x) if is_number(x) else cast(as_tensor(x), dtype)), cast(as_tensor(other), dtype)


def _raw(x: Operand) -> _core.Tensor | float:
    return x._t if isinstance(x, Tensor) else x


def _wanted(x: Operand) -> tuple[int, ...] | None:
    """The shape of the operand if it needs a gradient."""
    return x._t.shape if isinstance(x, Tensor) and x._requires_grad else None


def unbroadcast(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sums a gradient over the dimensions along which an operand of this shape was repeated."""
    have = g._t.shape
    if have == shape:
        return g
    lead = len(have) - len(shape)
    repeated = [i + lead for i, n in enumerate(shape) if n != have[i + lead]]
    return Tensor(_core.sum(g._t, [*range(lead), *repeated]).reshape(shape))


@op(shape=arithmetic("add"))
def add(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x + other``.

    Example:
        >>> qn.ops.add(qn.tensor([1, 2]), 0.5)
        tensor([1.5, 2.5], dtype=float32)
    """
    a, b = _promoted(x, other)
    out = _core.add(_raw(a), _raw(b))
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = _wanted(a), _wanted(b)

    def backward(g: Tensor) -> Gradients:
        return None if sa is None else unbroadcast(g, sa), None if sb is None else unbroadcast(g, sb)

    return put_on_tape(out, (a, b), backward)


@op(shape=arithmetic("sub"))
def sub(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x - other``."""
    a, b = _promoted(x, other)
    out = _core.sub(_raw(a), _raw(b))
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = _wanted(a), _wanted(b)

    def backward(g: Tensor) -> Gradients:
        return None if sa is None else unbroadcast(g, sa), None if sb is None else unbroadcast(neg(g), sb)

    return put_on_tape(out, (a, b), backward)


@op(shape=arithmetic("mul"))
def mul(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x * other``, element by element."""
    a, b = _promoted(x, other)
    ta, tb = _raw(a), _raw(b)
    out = _core.mul(ta, tb)
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = _wanted(a), _wanted(b)

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
    a, b = _promoted(x, other, floating=True)
    tb = _raw(b)
    out = _core.div(_raw(a), tb)
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = _wanted(a), _wanted(b)

    def backward(g: Tensor, b: Operand, out: Any) -> Gradients:
        ga = div(g, b)
        return (
            None if sa is None else unbroadcast(ga, sa),
            None if sb is None else unbroadcast(neg(mul(ga, out)), sb),
        )

    return put_on_tape(out, (a, b), backward, (tb, None if sb is None else out))


def _pow_rule(x: Any, exponent: Any) -> Spec:
    return arithmetic("pow")(x, exponent)


@op(shape=_pow_rule)
def pow(x: TensorLike, exponent: TensorLike) -> Tensor:
    """Returns ``x ** exponent``.

    The gradient with respect to the exponent is 0 where ``x`` is 0 and the exponent is not negative, as in PyTorch.

    Raises:
        ArgumentError: An integer tensor with a negative whole exponent; use floats.
    """
    a, b = _promoted(x, exponent)
    if not isinstance(b, Tensor) and b < 0 and spec_of(a).dtype not in FLOATING:
        raise ArgumentError(
            f"[pow] an integer tensor cannot have the exponent {b:g}; use x.astype('float32')"
        )
    ta, tb = _raw(a), _raw(b)
    out = _core.pow(ta, tb)
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = _wanted(a), _wanted(b)

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
    return mul(pow(a, b - 1.0), b) if b != 0.0 else mul(a, 0.0)


def _exponent_slope(a: Operand, b: Operand, out: Tensor) -> Tensor:
    """The derivative of a ** b for b; 0 where 0 ** b is constant."""
    if isinstance(a, Tensor):
        return where(logical_and(eq(a, 0.0), ge(b, 0.0)), 0.0, mul(out, log(a)))
    if a == 0:
        return where(ge(b, 0.0), 0.0, mul(out, -math.inf))
    return mul(out, math.log(a) if a > 0 else math.nan)


@op(shape=arithmetic("maximum"))
def maximum(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns the larger of the two, element by element; NaN if either is. Ties share the gradient."""
    return _extremum(_core.maximum, lt, x, other)


@op(shape=arithmetic("minimum"))
def minimum(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns the smaller of the two, element by element; NaN if either is. Ties share the gradient."""
    return _extremum(_core.minimum, gt, x, other)


def _extremum(kernel: Any, loses: Any, x: TensorLike, other: TensorLike) -> Tensor:
    a, b = _promoted(x, other)
    ta, tb = _raw(a), _raw(b)
    out = kernel(ta, tb)
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = _wanted(a), _wanted(b)

    def backward(g: Tensor, a: Operand, b: Operand) -> Gradients:
        shared = where(eq(a, b), mul(g, 0.5), g)
        return (
            None if sa is None else unbroadcast(where(loses(a, b), 0.0, shared), sa),
            None if sb is None else unbroadcast(where(loses(b, a), 0.0, shared), sb),
        )

    return put_on_tape(out, (a, b), backward, (ta, tb))


# Comparisons and logic. They have no gradient.


@op(shape=comparison("eq"))
def eq(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns whether the elements are equal."""
    a, b = _promoted(x, other)
    return Tensor(_core.eq(_raw(a), _raw(b)))


@op(shape=comparison("ne"))
def ne(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns whether the elements differ."""
    a, b = _promoted(x, other)
    return Tensor(_core.ne(_raw(a), _raw(b)))


@op(shape=comparison("lt"))
def lt(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x < other``."""
    a, b = _promoted(x, other)
    return Tensor(_core.lt(_raw(a), _raw(b)))


@op(shape=comparison("le"))
def le(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x <= other``."""
    a, b = _promoted(x, other)
    return Tensor(_core.le(_raw(a), _raw(b)))


@op(shape=comparison("gt"))
def gt(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x > other``."""
    a, b = _promoted(x, other)
    return Tensor(_core.gt(_raw(a), _raw(b)))


@op(shape=comparison("ge"))
def ge(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x >= other``."""
    a, b = _promoted(x, other)
    return Tensor(_core.ge(_raw(a), _raw(b)))


@op(shape=comparison("logical_and"))
def logical_and(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns whether both are true; numbers other than 0 are."""
    return Tensor(_core.logical_and(cast(as_tensor(x), "bool")._t, cast(as_tensor(other), "bool")._t))


@op(shape=comparison("logical_or"))
def logical_or(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns whether either is true; numbers other than 0 are."""
    return Tensor(_core.logical_or(cast(as_tensor(x), "bool")._t, cast(as_tensor(other), "bool")._t))


@op(shape=lambda x: Spec(spec_of(x).shape, "bool"))
def logical_not(x: TensorLike) -> Tensor:
    """Returns whether the elements are false, that is 0."""
    return Tensor(_core.logical_not(cast(as_tensor(x), "bool")._t))


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
    a, b = _promoted(x, other)
    out = _core.where(chosen._t, _raw(a), _raw(b))
    if not needs_grad(a, b):
        return Tensor(out)
    sa, sb = _wanted(a), _wanted(b)

    def backward(g: Tensor, chosen: Tensor) -> Gradients:
        return (
            None if sa is None else unbroadcast(where(chosen, g, 0.0), sa),
            None if sb is None else unbroadcast(where(chosen, 0.0, g), sb),
        )

    return put_on_tape(out, (a, b), backward, (chosen._t,))


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

    def backward(g: Tensor, a: Tensor) -> Gradients:
        g = g if min is None else where(ge(a, min), g, 0.0)
        g = g if max is None else where(le(a, max), g, 0.0)
        return (unbroadcast(cast(g, a.dtype), a.shape),)

    return attach(out._t, (a,), backward, (a._t,))


def _cast_rule(x: Any, dtype: DTypeLike) -> Spec:
    return Spec(spec_of(x).shape, dtype_name(dtype))


@op(shape=_cast_rule)
def cast(x: TensorLike, dtype: DTypeLike) -> Tensor:
    """Converts to another dtype; floats are cut off on their way to integers. Returns ``x`` itself if it has that dtype."""
    a = as_tensor(x)
    before, name = a._t.dtype, dtype_name(dtype)
    if before == name:
        return a
    out = _core.cast(a._t, name)
    if name not in FLOATING:
        return Tensor(out)
    return attach(out, (a,), lambda g: (cast(g, before),))


@op(shape=same)
def clone(x: TensorLike) -> Tensor:
    """Returns a copy in memory of its own; gradients pass through."""
    a = as_tensor(x)
    return attach(_core.copy(a._t), (a,), lambda g: (g,))
