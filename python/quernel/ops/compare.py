"""Comparisons, tests and logic, element by element. They have no gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from quernel import _core
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING, INTEGER, whole_range
from quernel.ops.op import Spec, op
from quernel.ops.operands import Operand, cast, promoted, raw
from quernel.ops.shapes import comparison, is_number, is_whole, spec_of
from quernel.tensor import Tensor

if TYPE_CHECKING:
    from quernel.ops.create import TensorLike


def _bool(x: Any) -> Spec:
    return Spec(spec_of(x).shape, "bool")


def _comparable(x: TensorLike, other: TensorLike) -> tuple[Operand, Operand]:
    """Two operands of one dtype; a whole number that an integer tensor cannot hold still compares as it should."""
    if is_whole(other) and not is_number(x):
        x, other = _within(as_tensor(x), other)
    elif is_whole(x) and not is_number(other):
        other, x = _within(as_tensor(other), x)
    return promoted(x, other)


def _within(x: Tensor, number: int) -> tuple[Tensor, float]:
    """The same comparison in a dtype that holds the number."""
    if x.dtype not in INTEGER or whole_range(x.dtype)[0] <= number <= whole_range(x.dtype)[1]:
        return x, number
    if -(2**63) <= number < 2**63:
        return cast(x, "int64"), number
    return cast(x, "float64"), math.copysign(2.0**64, number)  # beyond all of them, also when rounded


@op(shape=comparison("eq"), direct=True)
def eq(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns whether the elements are equal."""
    a, b = _comparable(x, other)
    return Tensor(_core.eq(raw(a), raw(b)))


@op(shape=comparison("ne"), direct=True)
def ne(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns whether the elements differ."""
    a, b = _comparable(x, other)
    return Tensor(_core.ne(raw(a), raw(b)))


@op(shape=comparison("lt"), direct=True)
def lt(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x < other``."""
    a, b = _comparable(x, other)
    return Tensor(_core.lt(raw(a), raw(b)))


@op(shape=comparison("le"), direct=True)
def le(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x <= other``."""
    a, b = _comparable(x, other)
    return Tensor(_core.le(raw(a), raw(b)))


@op(shape=comparison("gt"), direct=True)
def gt(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x > other``."""
    a, b = _comparable(x, other)
    return Tensor(_core.gt(raw(a), raw(b)))


@op(shape=comparison("ge"), direct=True)
def ge(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns ``x >= other``."""
    a, b = _comparable(x, other)
    return Tensor(_core.ge(raw(a), raw(b)))


@op(shape=comparison("logical_and"))
def logical_and(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns whether both are true; numbers other than 0 are."""
    return Tensor(_core.logical_and(cast(as_tensor(x), "bool")._t, cast(as_tensor(other), "bool")._t))


@op(shape=comparison("logical_or"))
def logical_or(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns whether either is true; numbers other than 0 are."""
    return Tensor(_core.logical_or(cast(as_tensor(x), "bool")._t, cast(as_tensor(other), "bool")._t))


@op(shape=comparison("logical_xor"))
def logical_xor(x: TensorLike, other: TensorLike) -> Tensor:
    """Returns whether one is true and the other is not; numbers other than 0 are."""
    return Tensor(_core.ne(cast(as_tensor(x), "bool")._t, cast(as_tensor(other), "bool")._t))


@op(shape=_bool)
def isnan(x: TensorLike) -> Tensor:
    """Returns whether the elements are NaN."""
    a = as_tensor(x)
    return Tensor(_core.ne(a._t, a._t))


@op(shape=_bool)
def isinf(x: TensorLike) -> Tensor:
    """Returns whether the elements are infinite, with either sign."""
    a = as_tensor(x)
    if a._t.dtype not in FLOATING:
        return Tensor(_core.full(a._t.shape, 0.0, "bool", a._t.device))
    return Tensor(_core.eq(_core.abs(a._t), math.inf))


@op(shape=_bool)
def isfinite(x: TensorLike) -> Tensor:
    """Returns whether the elements are neither infinite nor NaN.

    Example:
        >>> qn.ops.isfinite(qn.tensor([1.0, np.nan, -np.inf]))
        tensor([ True, False, False], dtype=bool)
    """
    a = as_tensor(x)
    if a._t.dtype not in FLOATING:
        return Tensor(_core.full(a._t.shape, 1.0, "bool", a._t.device))
    return Tensor(_core.lt(_core.abs(a._t), math.inf))


@op(shape=_bool)
def logical_not(x: TensorLike) -> Tensor:
    """Returns whether the elements are false, that is 0."""
    return Tensor(_core.logical_not(cast(as_tensor(x), "bool")._t))
