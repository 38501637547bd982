"""Shared by the shape rules: broadcasting, axes, pairs, and the dtype that operands promote to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from quernel.errors import ArgumentError, DTypeError, ShapeError
from quernel.ops.create import as_tensor
from quernel.ops.dtypes import FLOATING, INTEGER, combine, promote_types, scalar_dtype
from quernel.ops.op import Spec
from quernel.tensor import Tensor

Number = bool | int | float
_NUMBERS = (int, float, np.integer, np.floating, np.bool_)  # their union, made at each call, takes 0.4 us


_LARGEST = 2**31 - 1  # of a window's sizes: their products with an image's fit 63 bits


def is_number(x: object) -> TypeGuard[Number]:
    """Whether x is a Python (or NumPy) number, which never widens a tensor of its kind."""
    return isinstance(x, _NUMBERS)


def is_whole(x: object) -> TypeGuard[int]:
    """Whether x is a Python int (or bool)."""
    return isinstance(x, int)


def spec_of(x: Any) -> Spec:
    """Shape and dtype of an operand."""
    if not isinstance(x, Tensor):
        x = as_tensor(x)
    return Spec(x.shape, x.dtype)


def result_type(x: Any, other: Any) -> str:
    """The dtype that two operands promote to, as in PyTorch.

    Of a tensor with dimensions, one without, and a Python number, the one further left decides within a kind.
    """
    if is_number(x):
        x, other = other, x
    if is_number(x) and is_number(other):
        return promote_types(scalar_dtype(x), scalar_dtype(other))
    a = spec_of(x)
    if is_number(other):
        return combine(a.dtype, scalar_dtype(other))
    b = spec_of(other)
    if bool(a.shape) == bool(b.shape):
        return promote_types(a.dtype, b.dtype)
    return combine(a.dtype, b.dtype) if a.shape else combine(b.dtype, a.dtype)


def broadcast_shapes(op: str, a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    """The shape that two shapes broadcast to."""
    rank = max(len(a), len(b))
    sizes = []
    for m, n in zip((1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b), strict=True):
        if m != n and 1 not in (m, n):
            raise ShapeError(f"[{op}] shapes {tuple(a)} and {tuple(b)} do not broadcast")
        sizes.append(n if m == 1 else m)
    return tuple(sizes)


def arithmetic(op: str) -> Callable[[Any, Any], Spec]:
    """The rule of an elementwise op of two operands."""

    def rule(x: Any, other: Any) -> Spec:
        return Spec(broadcast_shapes(op, spec_of(x).shape, spec_of(other).shape), result_type(x, other))

    return rule


def comparison(op: str) -> Callable[[Any, Any], Spec]:
    """The rule of an elementwise op of two operands that gives booleans."""

    def rule(x: Any, other: Any) -> Spec:
        return Spec(broadcast_shapes(op, spec_of(x).shape, spec_of(other).shape), "bool")

    return rule


def same(x: Any) -> Spec:
    """The rule of an elementwise op that keeps the dtype."""
    return spec_of(x)


def same_floating(x: Any) -> Spec:
    """The rule of an elementwise op that turns integers into float32."""
    spec = spec_of(x)
    return spec if spec.dtype in FLOATING else Spec(spec.shape, "float32")


def whole_number(op: str, name: str, value: Any, least: int | None = 0) -> int:
    """`value` as an int, if it is one of Python's or NumPy's, from `least` on."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and (least is None or value >= least):
        return int(value)
    raise ArgumentError(f"[{op}] {name} is a whole number{_from(least)}, got {value!r}")


def _from(least: int | None) -> str:
    return f", at least {least}" if least else ""


def normalize_axis(op: str, axis: int, ndim: int) -> int:
    """The axis counted from the front."""
    if not isinstance(axis, int | np.integer):
        raise ArgumentError(f"[{op}] a dim is a whole number, got {axis!r}")
    if not -ndim <= axis < max(ndim, 1):
        raise ShapeError(f"[{op}] dim {axis} is out of range for a tensor of {ndim} dimensions")
    return int(axis + ndim if axis < 0 else axis)


def normalize_axes(op: str, axis: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """The axes in ascending order, counted from the front; None means all."""
    if axis is None:
        return tuple(range(ndim))
    if not isinstance(axis, Sequence):
        return (normalize_axis(op, axis, ndim),) if ndim else ()
    axes = sorted(normalize_axis(op, a, ndim) for a in axis)
    if len(set(axes)) != len(axes):
        raise ShapeError(f"[{op}] a dim is named twice in {tuple(axis)}")
    return tuple(axes)


def pair(op: str, name: str, value: int | Sequence[int], least: int) -> tuple[int, int]:
    """A size for height and width, given as one number or as two."""
    sizes = tuple(value) if isinstance(value, Sequence | np.ndarray) else (value, value)
    if len(sizes) != 2 or not all(isinstance(s, int | np.integer) for s in sizes):
        raise ArgumentError(f"[{op}] {name} must be one whole number or two (height, width), got {value!r}")
    if min(sizes) < least:
        raise ArgumentError(f"[{op}] {name} must be at least {least}, got {value!r}")
    if max(sizes) > _LARGEST:
        raise ArgumentError(f"[{op}] {name} must be at most {_LARGEST}, got {value!r}")
    return int(sizes[0]), int(sizes[1])


def check_rank(op: str, name: str, shape: tuple[int, ...], rank: int, layout: str) -> None:
    """Raises unless the operand has this rank."""
    if len(shape) != rank:
        raise ShapeError(f"[{op}] {name} must have {rank} dimensions {layout}, got shape {shape}")


def check_floating(op: str, name: str, dtype: str) -> None:
    """Raises unless the operand is floating."""
    if dtype not in FLOATING:
        raise DTypeError(f"[{op}] {name} must be floating, got {dtype}; cast it with .astype('float32')")


def check_precision(op: str, precision: str | None, dtype: str, takes: str = "float32") -> None:
    """Raises unless operands of this dtype can be multiplied in this precision."""
    if precision not in (None, "bf16"):
        raise ArgumentError(f"[{op}] precision is 'bf16' or None, got {precision!r}")
    if precision == "bf16" and dtype not in takes.split(" or "):
        raise DTypeError(f"[{op}] precision 'bf16' takes {takes}, x is {dtype}; cast it, or leave it at None")


def check_same_dtype(op: str, a_name: str, a: str, b_name: str, b: str) -> None:
    """Raises unless two operands that are contracted have one dtype."""
    if a != b:
        raise DTypeError(f"[{op}] {b_name} is {b}, {a_name} is {a}; cast one with .astype()")


def check_lengths(op: str, name: str, lengths: Any, rows: int, of: str) -> None:
    """Raises unless there is a whole number for each row, or None; `of` tells the operand that has the rows."""
    if lengths is None:
        return
    have = spec_of(lengths)
    if have.shape != (rows,):
        raise ShapeError(f"[{op}] {name} is {have.shape}, expected one per row, {(rows,)} ({of})")
    if have.dtype not in INTEGER:
        raise DTypeError(f"[{op}] {name} are whole numbers, got {have.dtype}; cast with .astype('int64')")


def check_params(op: str, x: Spec, shape: tuple[int, ...], params: Mapping[str, Any]) -> None:
    """Raises unless the parameters of a normalization that are given have this shape and the dtype of x."""
    for name, param in params.items():
        if param is not None:
            have = spec_of(param)
            if have.shape != shape:
                raise ShapeError(f"[{op}] {name} must have shape {shape}, got {have.shape} (x: {x.shape})")
            check_same_dtype(op, "x", x.dtype, name, have.dtype)


def check_addends(op: str, dtype: str, shape: tuple[int, ...], bias: Any, residual: Any) -> None:
    """Checks what a contraction with an output of this shape adds to it."""
    if bias is not None:
        have = spec_of(bias)
        if have.shape != shape[-1:]:
            raise ShapeError(f"[{op}] bias must have shape {shape[-1:]}, got {have.shape}")
        check_same_dtype(op, "x", dtype, "bias", have.dtype)
    if residual is not None:
        have = spec_of(residual)
        if have.shape != shape:
            raise ShapeError(f"[{op}] residual must have the output's shape {shape}, got {have.shape}")
        check_same_dtype(op, "x", dtype, "residual", have.dtype)
